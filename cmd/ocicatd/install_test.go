// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/env"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/install"
)

func TestInstallation(t *testing.T) {
	mounted := []string{"-cni-bin-dir=/host/opt/cni/bin", "-cni-net-dir=/host/etc/cni/net.d"}
	config := func(change func(*install.Config)) *install.Config {
		c := &install.Config{
			Source: "/opt/ocicat/bin", BinDir: "/host/opt/cni/bin", NetDir: "/host/etc/cni/net.d",
			Conflist: install.Conflist{File: "10-ocicat.conflist", Network: "k8s-pod-network"},
		}
		change(c)
		return c
	}
	for what, test := range map[string]struct {
		args []string
		env  env.CNI
		want *install.Config
		err  bool
	}{
		"nothing":           {},
		"both directories":  {args: mounted, want: config(func(*install.Config) {})},
		"one directory":     {args: mounted[:1], err: true},
		"CALICO_MANAGE_CNI": {args: mounted, env: env.CNI{Unused: true}},
		"all settings": {
			args: append([]string{"-run-dir=/run/other", "-cni-source=/src", "-cni-network=pods"}, mounted...),
			env:  env.CNI{File: "05-x.conflist", MTU: 1400, Skip: []string{"portmap"}},
			want: config(func(c *install.Config) {
				c.Source, c.Skip = "/src", []string{"portmap"}
				c.Conflist = install.Conflist{File: "05-x.conflist", Network: "pods", MTU: 1400, Socket: "/run/other/cni.sock"}
			}),
		},
	} {
		o, err := parse(test.args)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got, err := installation(o, test.env)
		if test.err {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: %v, want Invalid", what, err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
}
