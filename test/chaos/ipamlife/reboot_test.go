// SPDX-License-Identifier: Apache-2.0

package ipamlife

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// awaitReleased waits until none of the pods holds its address, and returns how
// long that took.
func awaitReleased(s *site, pods map[string]netip.Addr, limit time.Duration) time.Duration {
	start := time.Now()
	for released(s, pods) < len(pods) && time.Since(start) < limit {
		time.Sleep(time.Second)
	}
	return time.Since(start)
}

func TestReboot(t *testing.T) {
	r := chaos.Begin(t, "F1", "new boot id, namespaces and journal gone, nobody deleted the pods; 20 reboots, the runtime's list known after every other", "addresses back after two looks (3 min apart, with the list 75 s), 0 at the first; 0 of living pods, tunnels or others released")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/22", 26)
		m := s.boot("n1", "i1", "boot-0")
		time.Sleep(time.Second)
		tunnel := assign(t, s, "ipip-tunnel-addr-n1", map[string]string{alloc.AttrNode: "n1", alloc.AttrType: "ipipTunnelAddress"})
		ours := assign(t, s, "vxlan-tunnel-addr-n1", map[string]string{alloc.AttrNode: "n1", alloc.AttrType: "vxlanTunnelAddress", alloc.AttrInstance: "i1", alloc.AttrBoot: "boot-0"})
		calico := assign(t, s, "k8s-pod-network.calico", map[string]string{alloc.AttrNode: "n1", alloc.AttrPod: "old", alloc.AttrInstance: "i1"})
		back, early, wrong := 0, 0, 0
		var slowest [2]time.Duration // without and with the list
		for i := range 20 {
			for j := range 5 {
				m.mustAdd(fmt.Sprintf("net.pod-%d-%d", i, j))
			}
			time.Sleep(time.Minute)
			gone := m.pods
			m.die()
			m = s.boot("n1", "i1", fmt.Sprint("boot-", i+1))
			if i%2 == 1 {
				m.r.Listed("net", nil)
			}
			time.Sleep(30 * time.Second)
			early += released(s, gone)
			living := m.mustAdd(fmt.Sprint("net.living-", i))
			slowest[i%2] = max(slowest[i%2], 30*time.Second+awaitReleased(s, gone, time.Hour))
			back += released(s, gone)
			time.Sleep(90 * time.Minute)
			for addr, want := range map[netip.Addr]string{living: fmt.Sprint("net.living-", i), tunnel: "ipip-tunnel-addr-n1", ours: "vxlan-tunnel-addr-n1", calico: "k8s-pod-network.calico"} {
				if got := s.holder(addr); got != want {
					wrong++
					t.Errorf("reboot %d: %s is held by %q, want %q", i, addr, got, want)
				}
			}
		}
		if back != 100+19 || early > 0 || slowest[0] > 5*time.Minute || slowest[1] > 4*time.Minute || slowest[1] >= slowest[0] || len(s.twice) > 0 {
			t.Errorf("%d of 119 addresses came back, %d of them at the first look, at the latest after %v, given twice %v", back, early, slowest, s.twice)
		}
		r.Measuredf("%d of 119 back, %s after the reboot at the latest, %s with the runtime's list, %d at the first look; %d of 80 others released, %d given twice",
			back, slowest[0], slowest[1], early, wrong, len(s.twice))
	})
	synctest.Test(t, func(t *testing.T) {
		lost := listed(t, false)
		if lost != 3 {
			t.Errorf("%d of 3 released that the runtime does not list", lost)
		}
		r.Twinf("a container of the boot before that the runtime lists: %d of 3 released in half an hour; not in the list: %d of 3", listed(t, true), lost)
	})
}

// listed reboots a machine with three pods, which the runtime's list then has
// or not, and returns how many are released within half an hour.
func listed(t *testing.T, has bool) int {
	s := newSite(t, "10.0.0.0/22", 26)
	m := s.boot("n1", "i1", "b1")
	time.Sleep(time.Second)
	var valid []string
	for i := range 3 {
		m.mustAdd(fmt.Sprint("net.c", i))
		valid = append(valid, fmt.Sprint("c", i))
	}
	time.Sleep(time.Minute)
	gone := m.pods
	m.die()
	m = s.boot("n1", "i1", "b2")
	if has {
		m.r.Listed("net", valid)
	} else {
		m.r.Listed("net", nil)
	}
	time.Sleep(30 * time.Minute)
	before := released(s, gone)
	if has && before > 0 {
		t.Errorf("%d of 3 released that the runtime lists", before)
	}
	if has && awaitReleased(s, gone, time.Hour) >= time.Hour {
		t.Error("what the runtime lists for ever is never released")
	}
	m.stop()
	return before
}

// TestCopyOfALivingMachine boots a copy of a machine's disk while the machine
// runs: the copy takes its pods for those of the boot before.
func TestCopyOfALivingMachine(t *testing.T) {
	r := chaos.Begin(t, "F7", "a copy of a living machine's disk boots, under its name and instance", "the original protests within a heartbeat: 0 of its pods released by the copy within its lease")
	copied := func(t *testing.T, partitioned bool) (lost int, twice int) {
		s := newSite(t, "10.0.0.0/27", 28)
		m := s.boot("n1", "i1", "b1")
		time.Sleep(time.Second)
		for i := range 6 {
			m.mustAdd(fmt.Sprint("pod-", i))
		}
		time.Sleep(time.Minute)
		if partitioned {
			m.cutOff()
		}
		twin := s.boot("n1", "i1", "b2")
		for i := range 55 {
			time.Sleep(time.Minute)
			_, _ = twin.add(fmt.Sprint("copy-", i))
			lost = max(lost, released(s, m.pods))
		}
		if !partitioned && twin.r.State().Lease == 0 {
			t.Error("the protest stopped the copy")
		}
		m.stop()
		twin.stop()
		return lost, len(s.twice)
	}
	synctest.Test(t, func(t *testing.T) {
		lost, twice := copied(t, false)
		if lost > 0 || twice > 0 {
			t.Errorf("%d of 6 released, %d given twice", lost, twice)
		}
		r.Measuredf("%d of 6 released in 55 min, %d given twice", lost, twice)
	})
	synctest.Test(t, func(t *testing.T) {
		lost, twice := copied(t, true)
		if lost == 0 {
			t.Error("with the original cut off nothing is released: the meter does not work")
		}
		r.Twinf("the original cut off from the datastore, so that it cannot protest: %d of 6 released, %d given twice", lost, twice)
	})
}
