// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/nft"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// foreign is what kube-proxy and Docker write, in their manner.
const foreign = `
table ip nat {
	chain DOCKER { }
	chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local jump DOCKER; }
}
table ip filter {
	chain FORWARD { type filter hook forward priority filter; policy accept; iifname "docker0" accept; }
}
table inet kube-proxy {
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
	chain input { type filter hook input priority filter; policy accept; tcp dport 179 accept; }
}
table ip6 ocicat {
	chain input { type filter hook input priority filter; policy accept; }
}
`

func wanted() host.Table {
	return core.Filter(&cluster.Snapshot{HadNAT: true, Settings: cluster.Settings{InterfacePrefix: "cali"}, Pools: []cluster.Pool{
		{CIDR: prefix("172.16.0.0/16"), NATOutgoing: true},
		{CIDR: prefix("10.1.0.0/24"), NATOutgoing: true},
		{CIDR: prefix("10.1.1.0/24"), NATOutgoing: true}, // the next one
		{CIDR: prefix("192.0.2.1/32")},
	}})
}

func open(t *testing.T, ns *nstest.NS) *nft.Handle {
	t.Helper()
	h, err := nft.OpenAt(ns.File())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// apply makes the namespace hold the table and checks whether that had to be
// written.
func apply(t *testing.T, h *nft.Handle, want host.Table, write bool) {
	t.Helper()
	wrote, err := h.Apply(want)
	if err != nil {
		t.Fatal(err)
	}
	if wrote != write {
		t.Errorf("Apply wrote: %v, want %v", wrote, write)
	}
}

func load(t *testing.T, ns *nstest.NS, text string) {
	t.Helper()
	cmd := ns.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft -f -: %v: %s", err, out)
	}
}

// nft lists what was written as core prints it, and what nft reads from that
// text is the table.
func TestTableIsWhatNftLists(t *testing.T) {
	ns := nstest.New(t)
	h, want := open(t, ns), wanted()
	apply(t, h, want, true)
	listed := ns.Run("nft", "list", "table", "inet", core.FilterTable) + "\n"
	if diff := cmp.Diff(want.String(), listed); diff != "" {
		t.Errorf("(-want +listed):\n%s", diff)
	}
	ns.Run("nft", "delete", "table", "inet", core.FilterTable)
	load(t, ns, want.String())
	apply(t, h, want, false)
}

// Whatever somebody does to the table it comes back; what is right is not
// written again, and nothing else is touched.
func TestChangedTableComesBack(t *testing.T) {
	ns := nstest.New(t)
	load(t, ns, foreign)
	before := ns.Run("nft", "list", "ruleset")
	h, want := open(t, ns), wanted()
	apply(t, h, want, true)
	handles := ns.Run("nft", "-a", "list", "table", "inet", "ocicat")
	apply(t, h, want, false)
	if diff := cmp.Diff(handles, ns.Run("nft", "-a", "list", "table", "inet", "ocicat")); diff != "" {
		t.Errorf("a table that was right is another now:\n%s", diff)
	}
	for _, harm := range []string{
		"delete table inet ocicat",
		"flush table inet ocicat",
		"flush chain inet ocicat input",
		"add table inet ocicat { flags dormant; }",
		"add chain inet ocicat more",
		"add chain inet ocicat input { policy drop; }",
		"insert rule inet ocicat input accept",
		"add rule inet ocicat prerouting counter",
		"flush chain inet ocicat prerouting; add rule inet ocicat prerouting iifname \"cali*\" ip saddr 127.0.0.0/8 drop",
		"delete table inet ocicat; add table inet ocicat; add chain inet ocicat input { type filter hook input priority 1; }",
		"add element inet ocicat pools { 203.0.113.0/24 }",
		"delete element inet ocicat pools { 10.1.0.0/24 }",
		"flush chain inet ocicat postrouting; flush set inet ocicat masquerade-pools",
		"add set inet ocicat more { type ipv4_addr; }",
		"flush chain inet ocicat postrouting; add rule inet ocicat postrouting ip saddr @masquerade-pools ip daddr != @pools masquerade",
		"delete chain inet ocicat postrouting",
		"flush ruleset",
	} {
		ns.Run("nft", harm)
		apply(t, h, want, true)
		if diff := cmp.Diff(want.String(), ns.Run("nft", "list", "table", "inet", "ocicat")+"\n"); diff != "" {
			t.Errorf("after %s (-want +listed):\n%s", harm, diff)
		}
		apply(t, h, want, false)
		if harm == "flush ruleset" {
			break // the foreign tables went with it
		}
		ns.Run("nft", "delete", "table", "inet", "ocicat")
		if diff := cmp.Diff(before, ns.Run("nft", "list", "ruleset")); diff != "" {
			t.Errorf("foreign tables after %s:\n%s", harm, diff)
		}
		apply(t, h, want, true)
	}
	apply(t, h, core.Filter(&cluster.Snapshot{Settings: cluster.Settings{InterfacePrefix: "pod-"}}), true)
}

// What cannot be said exactly is not written at all.
func TestNothingIsWrittenByHalves(t *testing.T) {
	ns := nstest.New(t)
	h := open(t, ns)
	for _, drop := range []host.Drop{
		{Proto: "sctp", Port: 1},
		{Src: prefix("10.0.0.0/12")},
		{Dst: prefix("fd00::/64")},
	} {
		want := host.Table{Name: "t", Chains: []host.Chain{{Name: "c", Hook: host.Input, Drops: []host.Drop{drop}}}}
		if _, err := h.Apply(want); err == nil {
			t.Errorf("%s: written", drop)
		}
	}
	for _, sets := range [][]host.Set{
		nil, // the rule's
		{{Name: "a"}},
		{{Name: "a", Prefixes: []netip.Prefix{prefix("fd00::/64")}}, {Name: "b"}},
		{{Name: "a", Prefixes: []netip.Prefix{prefix("10.0.0.0/8"), prefix("10.1.0.0/16")}}, {Name: "b"}},
	} {
		chain := host.Chain{Name: "c", Hook: host.Postrouting, Masquerades: []host.Masquerade{{From: "a", Except: "b"}}}
		if _, err := h.Apply(host.Table{Name: "t", Sets: sets, Chains: []host.Chain{chain}}); err == nil {
			t.Errorf("%v: written", sets)
		}
	}
	if _, err := h.Apply(host.Table{Name: "t", Chains: []host.Chain{{Name: "c", Hook: "forward?"}}}); err == nil {
		t.Error("unknown hook: written")
	}
	twice := wanted()
	twice.Chains[1].Name = twice.Chains[0].Name // the kernel refuses it after it took the table
	twice.Chains[1].Hook = host.Prerouting
	twice.Chains[1].Priority = 7
	if _, err := h.Apply(twice); err == nil {
		t.Error("name too long: written")
	}
	if got := ns.Run("nft", "list", "ruleset"); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

// Changes of our table are told, those of others are not.
func TestMonitor(t *testing.T) {
	ns := nstest.New(t)
	h := open(t, ns)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var told atomic.Int64
	go func() { done <- h.Monitor(ctx, core.FilterTable, func() { told.Add(1) }) }()
	expect := func(what string, more int64) {
		t.Helper()
		nstest.Eventually(t, 5*time.Second, func() bool { return told.Load() >= more }, what)
	}
	expect("listening", 1)
	load(t, ns, foreign)
	before := told.Load()
	apply(t, h, wanted(), true)
	expect("own write", before+1)
	if before != 1 {
		t.Errorf("foreign tables were told %d times", before-1)
	}
	for _, change := range []string{"flush chain inet ocicat input", "delete table inet ocicat"} {
		before = told.Load()
		ns.Run("nft", change)
		expect(change, before+1)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Monitor: %v", err)
	}
}
