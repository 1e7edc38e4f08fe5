// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	cases "github.com/ocicat-net/ocicat/test/chaos"
)

// TestPoolChoice asks for pools and reads why the others were passed over.
func TestPoolChoice(t *testing.T) {
	pool := func(name, cidr string, edit func(*cluster.Pool)) cluster.Pool {
		p := cluster.Pool{Name: name, CIDR: netip.MustParsePrefix(cidr), BlockSize: 28}
		if edit != nil {
			edit(&p)
		}
		return p
	}
	off := pool("off", "10.0.0.0/24", func(p *cluster.Pool) { p.Disabled = true })
	manual := pool("manual", "10.0.1.0/24", func(p *cluster.Pool) { p.Manual = true })
	rack := pool("rack", "10.0.2.0/24", func(p *cluster.Pool) { p.NodeSelector = "rack == 'a'" })
	tunnel := pool("tunnel", "10.0.3.0/24", func(p *cluster.Pool) { p.AllowedUses = []string{"Tunnel"} })
	team := pool("team", "10.0.4.0/24", func(p *cluster.Pool) { p.NamespaceSelector = "team == 'x'" })
	lan := pool("lan", "10.0.5.0/24", func(p *cluster.Pool) { p.Unusable = "overlaps network 10.0.5.0/25 on eth0" })
	six := pool("six", "fd00::/64", func(p *cluster.Pool) { p.BlockSize = 122 })
	all := []cluster.Pool{rack, off, tunnel, team, manual, six, lan}
	inA, inB := map[string]string{"rack": "a"}, map[string]string{"rack": "b"}
	for name, c := range map[string]struct {
		pools  []cluster.Pool
		labels map[string]string
		req    request
		want   string // names, or
		kind   fault.Kind
		says   []string
	}{
		"selected":        {all, inA, request{}, "rack", 0, nil},
		"namespace":       {all, inB, request{namespace: map[string]string{"team": "x"}}, "team", 0, nil},
		"both":            {all, inA, request{namespace: map[string]string{"team": "x"}}, "rack, team", 0, nil},
		"named manual":    {all, inB, request{pools: []string{"manual"}}, "manual", 0, nil},
		"named by CIDR":   {all, inB, request{pools: []string{"10.0.4.0/24", "rack", "team"}}, "team, rack", 0, nil},
		"tunnel":          {all, inB, request{use: Tunnel}, "tunnel", 0, nil},
		"named, one fits": {all, inB, request{pools: []string{"tunnel", "rack"}}, "rack", 0, nil},
		"none": {all, inB, request{}, "", fault.Exhausted, []string{
			"no IPv4 pool for Workload on node n1",
			"lan overlaps network 10.0.5.0/25 on eth0", "manual has assignmentMode Manual", "off is disabled", "rack has nodeSelector rack == 'a'",
			"six is not of IPv4", "team has namespaceSelector team == 'x', and the namespace's labels are not known", "tunnel has allowedUses [Tunnel]",
		}},
		"wrong namespace":  {[]cluster.Pool{team}, nil, request{namespace: map[string]string{}}, "", fault.Exhausted, []string{"does not select the namespace"}},
		"no pool at all":   {nil, nil, request{}, "", fault.Exhausted, []string{"there is no pool"}},
		"named, missing":   {all, inA, request{pools: []string{"rack", "gone"}}, "", fault.Invalid, []string{"pool gone does not exist"}},
		"named, disabled":  {all, inA, request{pools: []string{"off"}}, "", fault.Invalid, []string{"pool off is disabled"}},
		"named, other use": {all, inA, request{pools: []string{"tunnel"}}, "", fault.Invalid, []string{"tunnel has allowedUses [Tunnel]"}},
		"named, IPv6":      {all, inA, request{pools: []string{"six"}}, "", fault.Invalid, []string{"pool six is not of IPv4"}},
		"blocks too large": {[]cluster.Pool{pool("big", "10.0.0.0/8", func(p *cluster.Pool) { p.BlockSize = 16 })}, nil, request{}, "", fault.Exhausted, []string{"big has blocks of /16"}},
	} {
		c.req.node, c.req.family = "n1", 4
		if c.req.use == "" {
			c.req.use = Workload
		}
		got, err := choosePools(c.pools, c.labels, c.req)
		if err == nil && c.want != joined(got) || (err == nil) != (c.want != "") {
			t.Errorf("%s: pools %s, error %v, want %q", name, joined(got), err, c.want)
		}
		if err != nil && (!fault.Is(err, c.kind) || fault.HintOf(err) == "") {
			t.Errorf("%s: %v is %v, want %v with a hint", name, err, fault.KindOf(err), c.kind)
		}
		for _, text := range c.says {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v does not say %q", name, err, text)
			}
		}
	}
}

func joined(pools []cluster.Pool) string {
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// TestReservationsKeepAddresses reserves most of a pool, before the reserve
// was filled and after: pods get only what is left, unless they ask by name.
func TestReservationsKeepAddresses(t *testing.T) {
	record := cases.Begin(t, "B18", "IPReservations before and after addresses were held ready", "0 reserved addresses given unasked")
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, cluster.Pool{Name: "small", CIDR: netip.MustParsePrefix("10.0.0.0/27"), BlockSize: 28})
		s.kept = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/29"), netip.MustParsePrefix("10.0.0.16/28")}
		a := s.run(ReserveConfig{Node: "n1", Size: 4})
		time.Sleep(time.Second)
		synctest.Wait()
		s.kept = append(s.kept, netip.MustParsePrefix("10.0.0.8/30")) // just what is held ready
		a.Refresh()
		time.Sleep(time.Second)
		synctest.Wait()
		given, wrong := 0, 0
		for {
			addr, err := a.Take(t.Context(), Claim{Handle: "pod-" + string(rune('a'+given))})
			if err != nil {
				if !fault.Is(err, fault.Exhausted) {
					t.Errorf("at the end: %v, want exhausted", err)
				}
				break
			}
			if reserved(s.kept).has(addr) {
				wrong++
			}
			given++
		}
		if given != 4 || wrong != 0 {
			t.Errorf("%d given, %d of them reserved, want 4 and 0", given, wrong)
		}
		record.Measuredf("%d of %d addresses given were reserved", wrong, given)
		asked := netip.MustParseAddr("10.0.0.17")
		if addr, err := a.Take(t.Context(), Claim{Handle: "static", Want: asked}); err != nil || addr != asked {
			t.Errorf("a reserved address asked for: %s, %v", addr, err)
		}
		record.Twinf("%s, reserved, is given to who asks for it", asked)
	})
}
