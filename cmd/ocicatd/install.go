// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"flag"
	"path/filepath"

	"github.com/ocicat-net/ocicat/internal/env"
	"github.com/ocicat-net/ocicat/internal/install"
)

// defaultRunDir is where the plugin looks for the agent unless it is told.
const defaultRunDir = "/run/ocicat"

// installFlags are those of an agent in a container that installs the CNI
// plugin on its host. A DaemonSet mounts the host's /opt/cni/bin and
// /etc/cni/net.d and names the mounts:
//
//	-cni-bin-dir=/host/opt/cni/bin -cni-net-dir=/host/etc/cni/net.d
//
// The run directory is mounted at the path it has on the host, for the plugin
// runs there.
func installFlags(f *flag.FlagSet, o *options) {
	c := &o.install
	f.StringVar(&c.BinDir, "cni-bin-dir", "", "install the CNI plugins into `directory`, with -cni-net-dir; not set: install nothing")
	f.StringVar(&c.NetDir, "cni-net-dir", "", "install the CNI configuration into `directory` once pods can be served, with -cni-bin-dir")
	f.StringVar(&c.Source, "cni-source", "/opt/ocicat/bin", "`directory` the CNI plugins are installed from")
	f.StringVar(&c.Conflist.Network, "cni-network", install.DefaultNetwork, "`name` of the network in the CNI configuration")
}

// installation is what the flags and the environment say of the host's CNI
// plugin, nil for nothing.
func installation(o options, says env.CNI) (*install.Config, error) {
	c := o.install
	if c.BinDir == "" && c.NetDir == "" || says.Unused {
		return nil, nil
	}
	c.Conflist.File, c.Conflist.MTU, c.Skip = cmp.Or(says.File, install.DefaultFile), says.MTU, says.Skip
	if o.runDir != defaultRunDir {
		c.Conflist.Socket = filepath.Join(o.runDir, "cni.sock")
	}
	return &c, c.Validate()
}
