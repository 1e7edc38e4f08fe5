// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
)

func TestInCluster(t *testing.T) {
	set := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	cfg, err := InCluster(func(name string) string { return set[name] }, "/elsewhere")
	want := Config{
		Server: "https://[fd00::1]:443",
		CAFile: "/elsewhere/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", TokenFile: "/elsewhere/var/run/secrets/kubernetes.io/serviceaccount/token",
	}
	if diff := cmp.Diff(want, cfg); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := InCluster(func(string) string { return "" }, "/"); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("outside a pod: %v", err)
	}
}

const aKubeconfig = `
apiVersion: v1
kind: Config
current-context: two
contexts:
- {name: one, context: {cluster: c1, user: u1}}
- {name: two, context: {cluster: c2, user: u2}}
clusters:
- {name: c1, cluster: {server: "https://one:6443"}}
- {name: c2, cluster: {server: "https://two:6443", certificate-authority: ca.crt, tls-server-name: kubernetes}}
users:
- {name: u1, user: {exec: {command: aws}}}
- {name: u2, user: {client-certificate-data: Y2VydA==, client-key: /abs/key, tokenFile: sub/token}}
`

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(aKubeconfig)
	cfg, err := FromEnvironment(func(name string) string { return map[string]string{"KUBECONFIG": file}[name] })
	want := Config{
		Server: "https://two:6443", ServerName: "kubernetes", CAFile: filepath.Join(dir, "ca.crt"), TokenFile: filepath.Join(dir, "sub/token"),
		Certificate: Certificate{Cert: []byte("cert"), KeyFile: "/abs/key"},
	}
	if diff := cmp.Diff(want, cfg); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for what, test := range map[string]struct {
		old, new string
		kind     fault.Kind
	}{
		"program":         {"current-context: two", "current-context: one", fault.Unsupported},
		"no context":      {"current-context: two", "current-context: three", fault.Invalid},
		"no cluster":      {"name: c2, cluster", "name: c3, cluster", fault.Invalid},
		"no user":         {"name: u2, user", "name: u3, user", fault.Invalid},
		"bad certificate": {"Y2VydA==", "???", fault.Invalid},
		"no YAML":         {"contexts:", "contexts", fault.Invalid},
	} {
		write(strings.Replace(aKubeconfig, test.old, test.new, 1))
		if _, err := FromKubeconfig(Choice{}, file); !fault.Is(err, test.kind) || !strings.HasPrefix(err.Error(), "read KUBECONFIG") {
			t.Errorf("%s: %v, want %v", what, err, test.kind)
		}
	}
	if _, err := FromKubeconfig(Choice{}, filepath.Join(dir, "absent")); !fault.Is(err, fault.Invalid) {
		t.Errorf("without a file: %v", err)
	}
}

// FuzzKubeconfig: no file breaks the reader, and what it reads is a
// configuration or refused as one.
func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte(aKubeconfig))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := parseKubeconfig(data, "/etc")
		if err != nil {
			return
		}
		cfg, err := k.config(Choice{})
		if err != nil {
			return
		}
		if c, err := New(cfg); err == nil {
			c.Close()
		} else if !fault.Is(err, fault.Invalid) {
			t.Errorf("%v, want invalid", err)
		}
	})
}

func TestServers(t *testing.T) {
	for _, server := range []string{"", "10.0.0.1", "ftp://x", "https://user@x", "https://"} {
		if _, err := New(Config{Server: server}); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%q: %v, want invalid with a hint", server, err)
		}
	}
}
