// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/purge"
	"github.com/ocicat-net/ocicat/test/flow"
)

// strangers are things of others that look like ours: routes of our protocol
// outside the pools and of other protocols inside, another table, a pod of
// Calico's, a rule.
const strangers = `ip route add 10.9.0.0/16 via 192.168.0.9 dev ens160 proto bird
ip route add blackhole 10.8.0.0/26 proto bird
ip route add 172.16.5.0/24 via 192.168.0.9 dev ens160 proto static
ip route add 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird table 200
ip link add cali99999999999 type veth peer name theirs
ip link set cali99999999999 address ee:ee:ee:ee:ee:ee up
ip link set theirs up
ip route add 172.16.44.0/30 dev cali99999999999 scope link
ip rule add from 172.16.0.0/16 lookup 200 priority 500
sysctl -qw net.ipv4.ip_forward=1
nft add table inet other
nft add chain inet other input { type filter hook input priority 0 ; }
nft add table ip ocicat`

// command runs a line in this namespace and returns what it printed.
func command(t testing.TB, line string) string {
	t.Helper()
	fields := strings.Fields(line)
	out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// dump is all that this namespace's kernel holds of routes, rules, links,
// permanent neighbours, nftables and settings.
func dump(t testing.TB) string {
	t.Helper()
	nstest.Eventually(t, 10*time.Second, func() bool { return command(t, "ip -6 addr show tentative") == "" }, "IPv6 addresses ready")
	var b strings.Builder
	for _, line := range []string{
		"ip -d route show table all", "ip -6 route show table all", "ip rule show", "ip -d -o addr show", "ip -o link show", "ip neigh show nud permanent", "nft list ruleset", "sysctl -a -r ^net",
	} {
		for found := range strings.Lines(command(t, line)) {
			volatile := func(word string) bool { return strings.Contains(found, word) }
			if !slices.ContainsFunc([]string{"nf_conntrack_count", "random", "expires"}, volatile) {
				b.WriteString(found)
			}
		}
	}
	return b.String()
}

// uninstaller is this node as the command line has it, with a plugin and its
// configuration as an agent installed them.
func uninstaller(t *testing.T, n *node) purge.Node {
	t.Helper()
	host := t.TempDir()
	c := install.Config{Source: filepath.Join(host, "source"), BinDir: filepath.Join(host, "bin"), NetDir: filepath.Join(host, "net.d"), Conflist: install.Conflist{Network: install.DefaultNetwork, File: install.DefaultFile}}
	for path, text := range map[string]string{
		filepath.Join(c.BinDir, "ocicat-cni"):        "ours",
		filepath.Join(c.NetDir, install.DefaultFile): `{"plugins": [{"type": "ocicat-cni"}]}`,
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return purge.Node{Install: c, RunDir: n.cfg.RunDir, StateDir: n.cfg.StateDir, Log: slog.New(slog.NewTextHandler(testLog{t}, nil))}
}

// TestUninstallAndInstallAgain is a node's life: an agent with two pods that
// talk, uninstalled, installed again, uninstalled, purged. The pods never
// notice until they end; then nothing of ours is left, and all of others'.
func TestUninstallAndInstallAgain(t *testing.T) {
	n := newNode(t)
	for line := range strings.Lines(strangers) {
		command(t, line)
	}
	t.Cleanup(func() {
		for _, line := range []string{"ip rule del priority 500", "ip route del blackhole 10.8.0.0/26", "ip route flush table 200", "nft delete table inet other", "nft delete table ip ocicat"} {
			command(t, line)
		}
	})
	before := dump(t)
	n.start()
	pods := []*pod{n.pod("sender", "c1"), n.pod("receiver", "c2")}
	var addrs []netip.Addr
	for _, p := range pods {
		addrs = append(addrs, n.add(p).Addresses[0].Addr())
	}
	machine := uninstaller(t, n)
	if _, err := machine.Uninstall(t.Context(), purge.Options{}); !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Fatalf("beside an agent: %v", err)
	}

	talk := flow.StartAt(t, pods[0].ns.File(), pods[1].ns.File(), addrs[1], 1000)
	talk.AwaitSent(t, 100)
	n.stop()
	command(t, "ip route add 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird") // as learned
	report := uninstalled(t, machine, purge.Options{})
	if len(report.Pods) != 2 || len(report.Removed) != 2 || len(report.Left) == 0 || report.Pods[0].Name != "devops/receiver" && report.Pods[1].Name != "devops/receiver" {
		t.Errorf("uninstall: %+v", report)
	}
	running := dump(t)
	refused, err := machine.Uninstall(t.Context(), purge.Options{Purge: true})
	if !errors.Is(err, purge.ErrPods) || !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "devops/sender (cali") || len(refused.Removed) != 0 {
		t.Errorf("purge under pods: %v, %+v", err, refused)
	}
	if diff := cmp.Diff(running, dump(t)); diff != "" {
		t.Errorf("a purge that was refused changed (-before +after):\n%s", diff)
	}

	n.start()
	again := n.pod("third", "c3")
	if addr := n.add(again).Addresses[0].Addr(); slices.Contains(addrs, addr) {
		t.Errorf("the agent that was installed again gives %s a second time", addr)
	}
	for i, p := range pods {
		if addr := n.add(p).Addresses[0].Addr(); addr != addrs[i] {
			t.Errorf("a repeated ADD answers %s, not %s", addr, addrs[i])
		}
	}
	n.del(again)
	talk.AwaitSent(t, 1000)
	if sent, lost := talk.End(); lost != 0 || sent < 1000 {
		t.Errorf("%d of %d packets lost across uninstall and install", lost, sent)
	}
	n.stop()
	uninstalled(t, machine, purge.Options{})
	for _, p := range pods {
		p.ns.IP("link del eth0") // as the end of a pod's namespace does
	}
	awaitNoPods(t, machine)
	purged(t, n, machine, before)
}

// purged purges a node without pods twice, and compares it with what it was.
func purged(t *testing.T, n *node, machine purge.Node, before string) {
	t.Helper()
	for _, run := range []string{"first", "again"} {
		report := uninstalled(t, machine, purge.Options{Purge: true})
		if diff := cmp.Diff(before, dump(t)); diff != "" {
			t.Errorf("%s: %+v (-before the install +after the purge):\n%s", run, report, diff)
		}
	}
	for _, dir := range []string{n.cfg.RunDir, n.cfg.StateDir, filepath.Join(machine.Install.BinDir, "ocicat-cni"), filepath.Join(machine.Install.NetDir, install.DefaultFile)} {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}

// TestPurgeByForce cuts off a pod that runs: all of ours goes all the same.
func TestPurgeByForce(t *testing.T) {
	n := newNode(t)
	command(t, "sysctl -qw net.ipv4.ip_forward=1")
	before := dump(t)
	n.start()
	n.add(n.pod("cut-off", "c1"))
	machine := uninstaller(t, n)
	n.stop()
	report := uninstalled(t, machine, purge.Options{Purge: true, Force: true})
	if len(report.Pods) != 1 || report.Pods[0].Name != "devops/cut-off" {
		t.Errorf("pods %v", report.Pods)
	}
	purged(t, n, machine, before)
}

// TestPurgeWithoutMemory knows no file of the agent: what is ours it sees in
// the kernel, its pools in the packet filter.
func TestPurgeWithoutMemory(t *testing.T) {
	n := newNode(t)
	command(t, "sysctl -qw net.ipv4.ip_forward=1")
	before := dump(t)
	defaults := n.cfg.DefaultPools
	n.cfg.DefaultPools = func(networks []netip.Prefix) ([]*v3.IPPool, error) {
		pools, err := defaults(networks)
		pools[0].Spec.NATOutgoing = true
		return pools, err
	}
	n.start()
	p := n.pod("short", "c1")
	n.add(p)
	n.del(p)
	n.stop()
	command(t, "ip route add 172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird")
	machine := uninstaller(t, n)
	if err := errors.Join(os.RemoveAll(n.cfg.RunDir), os.RemoveAll(n.cfg.StateDir)); err != nil {
		t.Fatal(err)
	}
	purged(t, n, machine, before)
}

// TestPurgeBesideAnotherSpeaker has a BIRD take the agent's place: its routes
// look as ours did, and stay unless they are given up by force.
func TestPurgeBesideAnotherSpeaker(t *testing.T) {
	n := newNode(t)
	n.start()
	n.stop()
	t.Cleanup(func() { command(t, "ip route flush proto bird") })
	const route = "172.16.109.64/26 via 192.168.0.12 dev ens160 proto bird"
	command(t, "ip route add "+route)
	machine := uninstaller(t, n)
	bird, err := net.Listen("tcp", "192.168.0.11:179")
	if err != nil {
		t.Fatal(err)
	}
	defer bird.Close()
	for _, force := range []bool{false, true} {
		o := purge.Options{Purge: true, Force: force, DryRun: true}
		report := uninstalled(t, machine, o)
		kept := slices.ContainsFunc(report.Kept, func(i purge.Item) bool { return i.What == "route "+route })
		if removed := slices.Contains(report.Removed, "route "+route); removed != force || kept == force {
			t.Errorf("force %v: removed %v, kept %v", force, removed, kept)
		}
	}
	uninstalled(t, machine, purge.Options{Purge: true})
	if left := command(t, "ip route show proto bird"); !strings.Contains(left, "172.16.109.64/26") {
		t.Errorf("the other speaker's route is gone: %q", left)
	}
}

func uninstalled(t *testing.T, machine purge.Node, o purge.Options) purge.Report {
	t.Helper()
	report, err := machine.Uninstall(t.Context(), o)
	if err := errors.Join(err, report.Err()); err != nil {
		t.Errorf("uninstall %+v: %v", o, err)
	}
	return report
}

func awaitNoPods(t *testing.T, machine purge.Node) {
	t.Helper()
	nstest.Eventually(t, 10*time.Second, func() bool {
		report, err := machine.Uninstall(t.Context(), purge.Options{DryRun: true})
		return err == nil && len(report.Pods) == 0
	}, "pods' links gone")
}
