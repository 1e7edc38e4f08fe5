// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// checkOf is a CHECK of p by a runtime that was told result.
func checkOf(p *pod, result cniwire.AddResult) cniwire.CheckRequest {
	return cniwire.CheckRequest{
		ID: p.req.ID, Network: p.req.Network, NetNSPath: p.req.NetNSPath, NetNS: p.req.NetNS,
		Prev: cniwire.Prev{
			Interfaces: []cniwire.PrevInterface{{Name: result.HostIf, MAC: result.HostMAC}, {Name: p.req.IfName, MAC: result.MAC, MTU: result.MTU, InPod: true}},
			Addresses:  result.Addresses,
		},
	}
}

// CHECK finds nothing right after ADD, after a restart and beside what others
// made, and names what is wrong: in the pod, where nobody repairs it, and in
// what the runtime was told.
func TestCheck(t *testing.T) {
	chaos.Begin(t, "A15", "each part of an endpoint changed, on both sides; foreign additions", "every change named, no false alarm").
		Measuredf("all named, 0 false alarms")
	n := newNode(t)
	n.start()
	p := n.pod("web-0", "c1")
	result := n.add(p)
	good := func() cniwire.CheckRequest { return checkOf(p, result) }
	ok := func(what string) {
		t.Helper()
		if err := n.door().Check(good()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	ok("right after ADD")
	p.ns.IP("route add 10.9.0.0/16 via 169.254.1.1")
	more := good()
	more.Prev.Interfaces = append(more.Prev.Interfaces, cniwire.PrevInterface{Name: "ifb0"})
	more.Prev.Addresses = append(more.Prev.Addresses, netip.MustParsePrefix("2001:db8::1/64"))
	if err := n.agent.Check(t.Context(), more); err != nil {
		t.Errorf("beside other plugins' work: %v", err)
	}
	n.stop()
	n.start()
	ok("after a restart")

	for want, spoil := range map[string]func(*cniwire.CheckRequest){
		"prevResult lacks interface " + result.HostIf:                        func(r *cniwire.CheckRequest) { r.Prev.Interfaces = r.Prev.Interfaces[1:] },
		"prevResult lacks interface eth0":                                    func(r *cniwire.CheckRequest) { r.Prev.Interfaces[1].InPod = false },
		`prevResult's mac of eth0 is "0e:00:00:00:00:01", want "`:            func(r *cniwire.CheckRequest) { r.Prev.Interfaces[1].MAC = "0e:00:00:00:00:01" },
		"prevResult's mtu of eth0 is 9000, want 1500":                        func(r *cniwire.CheckRequest) { r.Prev.Interfaces[1].MTU = 9000 },
		"prevResult lacks address " + result.Addresses[0].String():           func(r *cniwire.CheckRequest) { r.Prev.Addresses = nil },
		"other end of link " + result.HostIf + " is another interface, want": func(r *cniwire.CheckRequest) { r.NetNS = n.twin().File() },
	} {
		req := good()
		spoil(&req)
		if err := n.agent.Check(t.Context(), req); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant a Conflict: …%s…", err, want)
		}
	}
	for what, spoil := range map[string]func(*cniwire.CheckRequest){
		"another container": func(r *cniwire.CheckRequest) { r.ContainerID = "c2" },
		"another interface": func(r *cniwire.CheckRequest) { r.IfName = "eth1" },
		"another network":   func(r *cniwire.CheckRequest) { r.Network = "other" },
	} {
		req := good()
		spoil(&req)
		if err := n.agent.Check(t.Context(), req); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v, want NotFound", what, err)
		}
	}

	p.ns.IP("route del default")
	p.ns.IP("link set eth0 mtu 1400")
	err := n.door().Check(good())
	want := "check devops/web-0: mtu of link eth0 in the pod is 1400, want 1500; route 0.0.0.0/0 in the pod is missing"
	if !fault.Is(err, fault.Conflict) || err.Error() != want || fault.HintOf(err) == "" {
		t.Errorf("%v\nwant %s, and what to do", err, want)
	}
	n.del(p)
	if err := n.agent.Check(t.Context(), good()); !fault.Is(err, fault.NotFound) {
		t.Errorf("after DEL: %v, want NotFound", err)
	}
}

// door is the way a plugin takes, once it is open.
func (n *node) door() cniwire.Client {
	n.t.Helper()
	client := cniwire.Client{Path: filepath.Join(n.cfg.RunDir, "cni.sock"), Timeout: 10 * time.Second}
	nstest.Eventually(n.t, 10*time.Second, func() bool {
		_, err := os.Stat(client.Path)
		return err == nil
	}, "the agent's socket")
	return client
}

// twin is a namespace that looks as a pod's, with an interface of another
// pair.
func (n *node) twin() *nstest.NS {
	ns := nstest.New(n.t)
	ns.IP("link add eth0 type veth peer name other")
	return ns
}

// A pod is checked for the neighbour it was given, not for what pods are given
// today.
func TestCheckAfterTheSettingChanged(t *testing.T) {
	n := newNode(t)
	for _, given := range []bool{false, true} {
		n.cfg.Settings.PermGateway = given
		n.start()
		p := n.pod("web-0", fmt.Sprint("c", given))
		result := n.add(p)
		n.stop()
		n.cfg.Settings.PermGateway = !given
		n.start()
		if err := n.agent.Check(t.Context(), checkOf(p, result)); err != nil {
			t.Errorf("given %v: %v", given, err)
		}
		if given {
			p.ns.IP("neigh del 169.254.1.1 dev eth0")
			if err := n.agent.Check(t.Context(), checkOf(p, result)); !fault.Is(err, fault.Conflict) {
				t.Errorf("neighbour deleted: %v", err)
			}
		}
		n.del(p)
		n.stop()
	}
}

// What is wrong on the host's side a CHECK finds or the agent has repaired.
func TestCheckWhileTheAgentRepairs(t *testing.T) {
	n := newNode(t)
	n.start()
	p := n.pod("web-0", "c1")
	result := n.add(p)
	ip(t, "route del "+result.Addresses[0].String())
	nstest.Eventually(t, 5*time.Second, func() bool {
		err := n.agent.Check(t.Context(), checkOf(p, result))
		if err != nil && !fault.Is(err, fault.Conflict) {
			t.Errorf("CHECK: %v", err)
		}
		return err == nil
	}, "CHECK content after the repair")
}
