// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
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
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// debianPlugins is where containernetworking-plugins has its programs.
const debianPlugins = "/usr/lib/cni"

const (
	hostPort, podPort = 18080, 8080
	limit             = 8e6 // bits per second into the pod
	bulk              = 1 << 20
)

// chain is a list of plugins and a container it attaches, as a runtime sees
// them.
type chain struct {
	w    *world
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
	rt   *libcni.RuntimeConf
}

// chain makes a list of ours, between the plugins named before and behind it.
func (w *world) chain(id string, before, behind []string) *chain {
	w.t.Helper()
	ours := fmt.Sprintf(`{"type":"ocicat-cni","socket":%q}`, filepath.Join(w.run, "cni.sock"))
	plugins := append(append(append([]string{}, before...), ours), behind...)
	list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":%q,"plugins":[%s]}`, network, strings.Join(plugins, ",")))
	if err != nil {
		w.t.Fatal(err)
	}
	return &chain{w, libcni.NewCNIConfigWithCacheDir([]string{w.Bin, debianPlugins, w.Root}, w.t.TempDir(), nil), list, &libcni.RuntimeConf{
		ContainerID: id, NetNS: w.pod.Path(), IfName: "eth0",
		Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "devops"}, {"K8S_POD_NAME", id}},
		CapabilityArgs: map[string]any{"portMappings": []map[string]any{{"hostPort": hostPort, "containerPort": podPort, "protocol": "tcp"}}},
	}}
}

// do runs f where the node's runtime runs.
func (c *chain) do(f func() error) error { return netns.Do(c.w.Netns(node), f) }

func (c *chain) add() (result types.Result, err error) {
	err = c.do(func() (err error) {
		result, err = c.cni.AddNetworkList(c.w.t.Context(), c.list, c.rt)
		return err
	})
	return result, err
}

func (c *chain) mustAdd() types.Result {
	c.w.t.Helper()
	result, err := c.add()
	if err != nil {
		c.w.t.Fatalf("ADD: %v", err)
	}
	return result
}

func (c *chain) mustDel() {
	c.w.t.Helper()
	if err := c.do(func() error { return c.cni.DelNetworkList(c.w.t.Context(), c.list, c.rt) }); err != nil {
		c.w.t.Fatalf("DEL: %v", err)
	}
}

// script writes a plugin of shell.
func (w *world) script(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.Root, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		w.t.Fatal(err)
	}
}

var (
	portmap   = `{"type":"portmap","capabilities":{"portMappings":true}}`
	bandwidth = fmt.Sprintf(`{"type":"bandwidth","ingressRate":%d,"ingressBurst":%d}`, int(limit), int(limit/10))
)

// TestChain puts Debian's portmap and bandwidth behind ours: both work, the
// result they pass on is ours, and nothing is left of it.
func TestChain(t *testing.T) {
	w := up(t)
	r := chaos.Begin(t, "A24", "portmap and bandwidth of Debian behind ours, by libcni", "prevResult unchanged, host port reached from outside and from the node, limit effective, CHECK 0, 0 left after DEL")
	free := w.chain("free", nil, []string{portmap})
	free.mustAdd()
	unlimited := w.transfer()
	free.mustDel()
	w.clean("DEL")

	c := w.chain("chained", nil, []string{portmap, bandwidth})
	result := c.mustAdd()
	alone := w.chain("chained", nil, nil).mustAdd() // the same container again: the first answer
	if diff := cmp.Diff(printed(t, alone), printed(t, result)); diff != "" {
		t.Errorf("result of the chain (-ours +after the others):\n%s", diff)
	}
	// CHECK without portmap: Debian's 1.1.1 wants IPv6 chains for IPv4 ports.
	checked := w.chain("chained", nil, []string{bandwidth})
	checked.cni = c.cni
	if err := c.do(func() error { return checked.cni.CheckNetworkList(t.Context(), checked.list, c.rt) }); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	limited := w.transfer()
	local := netns.Do(w.Netns(node), func() error { return w.reach("127.0.0.1") })
	if local != nil {
		t.Errorf("host port on 127.0.0.1: %v", local)
	}
	if limited > 1.3*limit || limited < limit/4 {
		t.Errorf("%.1f Mbit/s into the pod, want about %.0f", limited/1e6, limit/1e6)
	}
	if unlimited < 5*limit {
		t.Errorf("%.1f Mbit/s into the pod without the limit: the meter does not work", unlimited/1e6)
	}
	for range 2 {
		c.mustDel()
	}
	w.clean("DEL")
	if rules, _ := w.node("iptables-save", "-t", "nat"); strings.Contains(rules, "chained") {
		t.Errorf("rules are left:\n%s", rules)
	}
	r.Measuredf("diff 0, host port answers outside and on 127.0.0.1, %.1f Mbit/s of %.0f, CHECK 0, 0 left", limited/1e6, limit/1e6)
	r.Twinf("%.0f Mbit/s without bandwidth in the list", unlimited/1e6)
}

// TestChainFails: a plugin behind ours fails; the runtime's DEL cleans all.
func TestChainFails(t *testing.T) {
	w := up(t)
	r := chaos.Begin(t, "A24", "the plugin behind ours fails in ADD, then DEL", "error reaches the runtime, 0 left")
	w.script("fails", `[ "$CNI_COMMAND" != ADD ] || { echo '{"cniVersion":"1.0.0","code":107,"msg":"not today"}'; exit 1; }`)
	c := w.chain("unlucky", nil, []string{portmap, `{"type":"fails"}`})
	_, err := c.add()
	var failure *types.Error
	if !errors.As(err, &failure) || failure.Code != 107 {
		t.Errorf("ADD = %v, want the later plugin's error", err)
	}
	seen := len(w.leaks())
	if seen == 0 {
		t.Error("nothing stands after the failed ADD: the meter does not work")
	}
	c.mustDel()
	w.clean("DEL")
	r.Measuredf("0 left")
	r.Twinf("%d leaks seen before the DEL", seen)
}

// TestChainBehind puts ours behind a plugin that makes something else.
func TestChainBehind(t *testing.T) {
	w := up(t)
	r := chaos.Begin(t, "A24", "ours behind another plugin, portmap behind us", "what it made unchanged in the result, ours complete; one that made the pod's interface is refused with code 7")
	w.script("marks", `[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","interfaces":[{"name":"mark0"}],"routes":[{"dst":"10.0.0.0/8"}],"dns":{"nameservers":["10.9.0.1"]}}'`)
	c := w.chain("behind", []string{`{"type":"marks"}`}, []string{portmap})
	var got struct {
		Interfaces []struct{ Name string }
		IPs        []struct{ Interface int }
		Routes     []struct{ Dst string }
		DNS        struct{ Nameservers []string }
	}
	if err := json.Unmarshal([]byte(printed(t, c.mustAdd())), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Interfaces) != 3 || got.Interfaces[0].Name != "mark0" || got.Interfaces[2].Name != "eth0" || got.IPs[0].Interface != 2 || len(got.Routes) != 1 || len(got.DNS.Nameservers) != 1 {
		t.Errorf("result %+v", got)
	}
	checked := w.chain("behind", []string{`{"type":"marks"}`}, nil)
	if err := c.do(func() error { return c.cni.CheckNetworkList(t.Context(), checked.list, c.rt) }); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	w.transfer()
	c.mustDel()
	w.clean("DEL")
	w.script("marks", `[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}]}'`)
	_, err := c.add()
	var failure *types.Error
	if !errors.As(err, &failure) || failure.Code != types.ErrInvalidNetworkConfig {
		t.Errorf("ADD = %v, want code 7", err)
	}
	c.mustDel()
	w.clean("a refused ADD")
	r.Measuredf("diff 0 in what the first made, ours behind it, code 7")
}

func printed(t *testing.T, result types.Result) string {
	t.Helper()
	text, err := json.MarshalIndent(result, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// transfer sends bulk bytes from outside the cluster to the host port and
// returns the rate at which the pod received them, in bits per second.
func (w *world) transfer() float64 {
	w.t.Helper()
	var server net.Listener
	var err error
	w.pod.Do(func() { server, err = net.Listen("tcp4", fmt.Sprint(":", podPort)) })
	if err != nil {
		w.t.Fatal(err)
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
	err = netns.Do(w.Netns("gw"), func() error {
		conn, err := net.DialTimeout("tcp4", fmt.Sprint("192.168.0.11:", hostPort), 5*time.Second)
		if err != nil {
			return err
		}
		_, err = conn.Write(make([]byte, bulk))
		return errors.Join(err, conn.Close())
	})
	if err != nil {
		w.t.Fatalf("from outside: %v", err)
	}
	select {
	case d := <-took:
		return bulk * 8 / d.Seconds()
	case <-time.After(20 * time.Second):
		w.t.Fatal("the pod did not get all of it")
		return 0
	}
}

// reach opens a connection to the host port, from the calling thread's
// namespace, to a listener in the pod.
func (w *world) reach(addr string) error {
	var server net.Listener
	var err error
	w.pod.Do(func() { server, err = net.Listen("tcp4", fmt.Sprint(":", podPort)) })
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
