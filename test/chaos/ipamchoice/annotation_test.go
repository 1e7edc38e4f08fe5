// SPDX-License-Identifier: Apache-2.0

package ipamchoice

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/test/chaos"
)

const pools = `
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: special}
spec: {cidr: 10.99.0.0/24, blockSize: 28, natOutgoing: false, assignmentMode: Manual}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: tunnels}
spec: {cidr: 10.98.0.0/24, natOutgoing: false, allowedUses: [Tunnel]}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: "off"}
spec: {cidr: 10.97.0.0/24, natOutgoing: false, disabled: true}
---
apiVersion: projectcalico.org/v3
kind: IPReservation
metadata: {name: gateways}
spec: {reservedCIDRs: [10.99.0.0/30]}
`

// notes are a pod's annotations.
type notes map[string]string

// members are the annotations as a runtime hands them over.
func (n notes) members() string {
	all := notes{}
	for name, value := range n {
		all["cni.projectcalico.org/"+name] = value
	}
	text, _ := json.Marshal(map[string]any{"io.kubernetes.cri.pod-annotations": all}) // strings always encode
	return `,"runtimeConfig":` + string(text)
}

// TestAnnotations asks for addresses, pools and a MAC by a pod's annotations:
// what can be had is given, everything else is one error that says who has it,
// and leaves nothing behind.
func TestAnnotations(t *testing.T) {
	record := chaos.Begin(t, "B20", "Calico's annotations through the plugin: own reserve, reserved, Manual pool; another's reserve, in use, outside pools, wrong use, disabled, unreadable, past IPAM", "each given, or one error with code 7 or the conflict that names the holder, 0 left behind")
	w := up(t, 2, "172.16.0.0/24")
	w.apply(pools)
	w.eventually("the agent knows the pools", func() bool {
		_, code := w.invoke("ADD", master, "probe", nstest.New(t).Path(), notes{"ipv4pools": `["special"]`}.members())
		return code == 0
	})
	if out, code := w.invoke("DEL", master, "probe", "", ""); code != 0 {
		t.Fatal(out)
	}
	busy := w.podAddr("devops/pod-1")
	reserve := w.heldBy(worker)
	given := 0
	for _, c := range []struct {
		name string
		ask  notes
		want netip.Prefix
	}{
		{"reserve", notes{"ipAddrs": fmt.Sprintf(`["%s"]`, w.heldBy(master))}, netip.Prefix{}},
		{"manual", notes{"ipAddrs": `["10.99.0.77"]`, "hwAddr": "1C:0C:0A:C0:FF:EE"}, netip.MustParsePrefix("10.99.0.77/32")},
		{"reserved", notes{"ipAddrs": `["10.99.0.1"]`}, netip.MustParsePrefix("10.99.0.1/32")},
		{"pool", notes{"ipv4pools": `["special"]`}, netip.Prefix{}},
		{"cidr", notes{"ipv4pools": `["10.99.0.0/24"]`}, netip.Prefix{}},
	} {
		out, code := w.invoke("ADD", master, c.name, nstest.New(t).Path(), c.ask.members())
		var result struct {
			IPs        []struct{ Address netip.Prefix }
			Interfaces []struct{ MAC, Sandbox string }
		}
		if err := json.Unmarshal([]byte(out), &result); code != 0 || err != nil || len(result.IPs) != 1 {
			t.Errorf("%s: exit %d: %s", c.name, code, out)
			continue
		}
		got := result.IPs[0].Address
		switch {
		case c.want.IsValid() && got != c.want:
			t.Errorf("%s: address %s, want %s", c.name, got, c.want)
		case c.ask["ipv4pools"] != "" && (!netip.MustParsePrefix("10.99.0.0/24").Contains(got.Addr()) || netip.MustParsePrefix("10.99.0.0/30").Contains(got.Addr())):
			t.Errorf("%s: address %s is not of the pool, or reserved", c.name, got)
		case c.ask["hwAddr"] != "" && !strings.Contains(out, strings.ToLower(c.ask["hwAddr"])):
			t.Errorf("%s: %s does not have the MAC", c.name, out)
		default:
			given++
		}
		if !w.reaches(worker, got.Addr()) {
			w.eventually(worker+" reaches "+got.String(), func() bool { return w.reaches(worker, got.Addr()) })
		}
	}
	record.Measuredf("%d of 5 given and reached from the other node", given)

	before := 2 + given // the lab's pods, and these; what else was given goes back behind its DEL
	nstest.Eventually(t, 20*time.Second, func() bool { return w.handles() == before }, "the addresses of pods that are gone are back")
	refused := 0
	cases := []struct {
		name, says string
		ask        notes
		code       int
	}{
		{"another's reserve", "held by the reserve on " + worker, notes{"ipAddrs": fmt.Sprintf(`["%s"]`, reserve)}, 0},
		{"in use", "held by pod devops/pod-1 on " + worker, notes{"ipAddrs": fmt.Sprintf(`["%s"]`, busy)}, 0},
		{"outside", "192.0.2.7 is in no pool", notes{"ipAddrs": `["192.0.2.7"]`}, 7},
		{"wrong use", "its pool tunnels has allowedUses [Tunnel]", notes{"ipAddrs": `["10.98.0.7"]`}, 7},
		{"disabled", "its pool off is disabled", notes{"ipAddrs": `["10.97.0.7"]`}, 7},
		{"disabled pool", "pool off is disabled", notes{"ipv4pools": `["off"]`}, 7},
		{"missing pool", "pool gone does not exist", notes{"ipv4pools": `["gone"]`}, 7},
		{"no list", "is not a JSON list of strings", notes{"ipAddrs": "10.99.0.5"}, 7},
		{"two", "asks for 2 addresses", notes{"ipAddrs": `["10.99.0.5","10.99.0.6"]`}, 7},
		{"MAC", "is not a MAC address", notes{"hwAddr": "nonsense"}, 7},
		{"the gateway's MAC", "is the gateway's", notes{"hwAddr": "ee:ee:ee:ee:ee:ee"}, 7},
		{"past IPAM", "ipAddrsNoIpam", notes{"ipAddrsNoIpam": `["10.99.0.5"]`}, 7},
	}
	for i, c := range cases {
		out, exit := w.invoke("ADD", master, fmt.Sprint("refused-", i), nstest.New(t).Path(), c.ask.members())
		var answer struct {
			Code int
			Msg  string
		}
		err := json.Unmarshal([]byte(out), &answer)
		if exit == 0 || err != nil || !strings.Contains(answer.Msg, c.says) || c.code != 0 && answer.Code != c.code {
			t.Errorf("%s: exit %d: %s\nwant code %d, %q", c.name, exit, out, c.code, c.says)
			continue
		}
		refused++
	}
	record.Measuredf("%d of %d refused with the reason", refused, len(cases))
	if after := w.handles(); after != before {
		t.Errorf("%d pods hold addresses after %d refused ADDs, want %d", after, len(cases), before)
	}
	record.Measuredf("%d addresses left by %d refused ADDs", w.handles()-before, len(cases))
}

// podAddr is the address of one of the lab's pods.
func (w *world) podAddr(name string) netip.Addr {
	w.t.Helper()
	for _, p := range w.state().Pods {
		if p.String() == name {
			return p.Address.Addr()
		}
	}
	w.t.Fatalf("no pod %s", name)
	return netip.Addr{}
}

// heldBy is an address that a node's agent holds ready, the last to be given.
func (w *world) heldBy(node string) netip.Addr {
	w.t.Helper()
	var found netip.Addr
	for _, e := range w.list(store.Handle) {
		if _, reserve := names.ParseReserveHandle(e.Key.Name); !reserve {
			continue
		}
		held, err := w.ipam.IPsByHandle(w.t.Context(), e.Key.Name)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, addr := range held {
			if who, err := w.ipam.Holder(w.t.Context(), addr); err == nil && who.Secondary["node"] == node {
				found = addr
			}
		}
	}
	if !found.IsValid() {
		w.t.Fatalf("%s holds nothing ready", node)
	}
	return found
}

// handles counts the pods that hold addresses.
func (w *world) handles() int {
	w.t.Helper()
	n := 0
	for _, e := range w.list(store.Handle) {
		if _, reserve := names.ParseReserveHandle(e.Key.Name); !reserve {
			n++
		}
	}
	return n
}

func (w *world) list(kind store.Kind) []store.Entry {
	w.t.Helper()
	entries, _, err := w.store.List(w.t.Context(), kind, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return entries
}
