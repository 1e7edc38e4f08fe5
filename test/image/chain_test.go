// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/labtest"
)

const (
	node              = "k8s-master-1"
	hostPort, podPort = 18081, 8080
	bulk              = 1 << 20
	limit             = 8e6 // bits per second into the pod
)

// runtimeOf is a lab's node with a runtime that finds what the image's agent
// installs.
type runtimeOf struct {
	*labtest.Lab
	t    *testing.T
	cni  *libcni.CNIConfig
	conf string
	pod  *nstest.NS
}

func newRuntime(t *testing.T) *runtimeOf {
	t.Helper()
	r := &runtimeOf{Lab: labtest.Up(t, 1, nil, nil), t: t, pod: nstest.New(t)}
	bin, conf := t.TempDir(), t.TempDir()
	installer, err := install.New(install.Options{
		Config: install.Config{
			Source: filepath.Join(unpack(t), "opt/ocicat/bin"), BinDir: bin, NetDir: conf,
			Conflist: install.Conflist{File: install.DefaultFile, Network: install.DefaultNetwork, Socket: filepath.Join(filepath.Dir(r.AdminSocket(node)), "cni.sock")},
		},
		Ready: ready, Changed: func() {}, Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = installer.Run(t.Context()) }() // it ends with the test
	<-installer.Installed()
	r.cni = libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
	r.conf = filepath.Join(conf, install.DefaultFile)
	return r
}

// list reads the configuration as a runtime of a version does: one from before
// 1.1 does not know of cniVersions.
func (r *runtimeOf) list(version string) *libcni.NetworkConfigList {
	r.t.Helper()
	text, err := os.ReadFile(r.conf)
	if err != nil {
		r.t.Fatal(err)
	}
	if version == "1.0.0" {
		text = []byte(strings.Replace(string(text), `"cniVersions"`, `"not read"`, 1))
	}
	list, err := libcni.ConfListFromBytes(text)
	if err != nil {
		r.t.Fatal(err)
	}
	if list.CNIVersion != version {
		r.t.Fatalf("a runtime takes version %s, want %s", list.CNIVersion, version)
	}
	return list
}

// do runs f where the node's runtime runs, and fails with what it was.
func (r *runtimeOf) do(what string, f func() error) {
	r.t.Helper()
	if err := netns.Do(r.Netns(node), f); err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
}

// TestChain calls every verb of the installed chain, as old and new runtimes
// do, for a pod with a host port and a limit of bandwidth as Kubernetes'
// annotations ask for it, by capabilities; both work, and nothing is left.
func TestChain(t *testing.T) {
	r := newRuntime(t)
	for _, version := range []string{"1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			list := r.list(version)
			free := r.attach(list, "free"+version, nil)
			unlimited := r.transfer()
			free()
			remove := r.attach(list, "limited"+version, map[string]any{"ingressRate": int(limit), "ingressBurst": int(limit / 10), "egressRate": int(limit), "egressBurst": int(limit / 10)})
			limited := r.transfer()
			t.Logf("%.1f Mbit/s of %.0f; without the limit %.0f", limited/1e6, limit/1e6, unlimited/1e6)
			if limited > 1.3*limit || limited < limit/4 || unlimited < 5*limit {
				t.Errorf("%.1f Mbit/s with a limit of %.0f, %.0f without", limited/1e6, limit/1e6, unlimited/1e6)
			}
			remove()
			remove() // as runtimes do
			if rules := r.Node(node, "iptables-save -t nat"); strings.Contains(rules, version) {
				t.Errorf("rules are left:\n%s", rules)
			}
			if links := r.Node(node, "ip -o link"); strings.Contains(links, "ifb") || strings.Contains(links, "bwp") {
				t.Errorf("links are left:\n%s", links)
			}
		})
	}
}

// attach adds a pod, checks it and the node's status, and returns what deletes
// it.
func (r *runtimeOf) attach(list *libcni.NetworkConfigList, id string, bandwidth map[string]any) (remove func()) {
	r.t.Helper()
	capabilities := map[string]any{"portMappings": []map[string]any{{"hostPort": hostPort, "containerPort": podPort, "protocol": "tcp"}}}
	if bandwidth != nil {
		capabilities["bandwidth"] = bandwidth
	}
	rt := &libcni.RuntimeConf{
		ContainerID: id, NetNS: r.pod.Path(), IfName: "eth0", CapabilityArgs: capabilities,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "devops"}, {"K8S_POD_NAME", "pod"}},
	}
	ctx := r.t.Context()
	r.do("STATUS", func() error { return r.cni.GetStatusNetworkList(ctx, list) })
	r.do("ADD", func() error {
		_, err := r.cni.AddNetworkList(ctx, list, rt)
		return err
	})
	r.do("CHECK", func() error { return r.cni.CheckNetworkList(ctx, list, rt) })
	r.do("host port on 127.0.0.1", func() error { return r.reach("127.0.0.1") })
	return func() {
		r.t.Helper()
		r.do("DEL", func() error { return r.cni.DelNetworkList(ctx, list, rt) })
	}
}

// listen opens the pod's port.
func (r *runtimeOf) listen() (server net.Listener, err error) {
	r.pod.Do(func() { server, err = net.Listen("tcp4", fmt.Sprint(":", podPort)) })
	return server, err
}

// reach opens a connection to the host port from the calling thread's
// namespace.
func (r *runtimeOf) reach(addr string) error {
	server, err := r.listen()
	if err != nil {
		return err
	}
	defer server.Close()
	conn, err := net.DialTimeout("tcp4", fmt.Sprint(addr, ":", hostPort), 5*time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// transfer sends bulk bytes from outside the cluster to the host port and
// returns the rate at which the pod received them, in bits per second.
func (r *runtimeOf) transfer() float64 {
	r.t.Helper()
	server, err := r.listen()
	if err != nil {
		r.t.Fatal(err)
	}
	defer server.Close()
	took := make(chan time.Duration, 1)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		begin := time.Now()
		if n, _ := io.Copy(io.Discard, conn); n == bulk {
			took <- time.Since(begin)
		}
	}()
	err = netns.Do(r.Netns("gw"), func() error {
		conn, err := net.DialTimeout("tcp4", fmt.Sprint("192.168.0.11:", hostPort), 5*time.Second)
		if err != nil {
			return err
		}
		_, err = conn.Write(make([]byte, bulk))
		return errors.Join(err, conn.Close())
	})
	if err != nil {
		r.t.Fatalf("from outside: %v", err)
	}
	select {
	case d := <-took:
		return bulk * 8 / d.Seconds()
	case <-time.After(20 * time.Second):
		r.t.Fatal("the pod did not get all of it")
		return 0
	}
}
