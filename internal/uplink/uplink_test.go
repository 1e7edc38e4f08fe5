// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// bonded is a machine whose two NICs are ports of a bond.
func bonded() Facts {
	address := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	return Facts{
		Links: map[string]host.Link{
			"eth0":  {Name: "eth0", Index: 2, Master: 4, Up: true, Lower: true, Addrs: address("192.168.0.99/24")},
			"eth1":  {Name: "eth1", Index: 3, Master: 4, Up: true, Lower: true},
			"bond0": {Name: "bond0", Index: 4, Kind: "bond", Up: true, Lower: true, Addrs: address("192.168.0.11/24")},
			"eth2":  {Name: "eth2", Index: 5, Addrs: address("10.0.1.5/24")},
		},
		Routes: []host.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.168.0.2"), Dev: "bond0"}},
	}
}

func TestBond(t *testing.T) {
	const want = `192.168.0.11/24 on bond0: link up, default route
  192.168.0.11/24 on bond0 score 150: link up +100, default route +50
  192.168.0.99/24 on eth0 left out: port of bond0
  10.0.1.5/24 on eth2 left out: link down
`
	if got := (Policy{}).Choose(bonded(), Had{}).String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestGiven is what IP and a stored Node say.
func TestGiven(t *testing.T) {
	prefix := netip.MustParsePrefix
	elsewhere, old := prefix("10.0.9.9/24"), prefix("10.0.1.5/24")
	for _, test := range []struct {
		ip   IP
		had  Had
		want string
	}{
		{IP{}, Had{Stored: elsewhere}, "10.0.9.9/24"},                        // a person's
		{IP{}, Had{Stored: elsewhere, Detected: true}, "192.168.0.11/24"},    // an agent's, gone
		{IP{}, Had{Stored: old, Detected: true}, "10.0.1.5/24"},              // an agent's, on a link that is down
		{IP{Autodetect: true}, Had{Stored: elsewhere}, "192.168.0.11/24"},    // looked for at every start
		{IP{None: true}, Had{Stored: elsewhere}, "invalid Prefix"},           // none
		{IP{Fixed: prefix("10.0.1.5/32"), Bare: true}, Had{}, "10.0.1.5/24"}, // with its network
		{IP{Fixed: prefix("10.0.7.7/32"), Bare: true}, Had{}, "10.0.7.7/32"},
		{IP{Fixed: prefix("10.0.7.7/16")}, Had{}, "10.0.7.7/16"},
		{IP{Autodetect: true}, Had{InForce: old, Device: "eth2"}, "10.0.1.5/24"}, // kept
	} {
		if got := (Policy{IP: test.ip}).Choose(bonded(), test.had); got.Address.String() != test.want || got.Err != nil {
			t.Errorf("%v, had %+v: %swant %s", test.ip, test.had, got, test.want)
		}
	}
}

// TestKubernetes: without a method the kubelet's address is the best, though
// others have the default route; where no device has it the score decides.
func TestKubernetes(t *testing.T) {
	f := bonded()
	f.Links["eth3"] = host.Link{Name: "eth3", Index: 6, Up: true, Lower: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.3.7/24")}}
	for internal, want := range map[string]string{
		"10.0.3.7":    "10.0.3.7/24 on eth3: link up, InternalIP of the Kubernetes Node, no default route",
		"203.0.113.7": "192.168.0.11/24 on bond0: link up, default route",
	} {
		f.Internal = []netip.Addr{netip.MustParseAddr("fd20::1"), netip.MustParseAddr(internal)}
		if got, _, _ := strings.Cut((Policy{}).Choose(f, Had{}).String(), "\n"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	m, err := ParseMethod("kubernetes-internal-ip")
	if err != nil {
		t.Fatal(err)
	}
	f.Internal = []netip.Addr{netip.MustParseAddr("203.0.113.7")}
	if c := (Policy{Method: m}).Choose(f, Had{}); !fault.Is(c.Err, fault.NotFound) || !strings.Contains(c.Err.Error(), "203.0.113.7 is on no link") {
		t.Errorf("an InternalIP on no device: %v", c)
	}
}

func TestNothingFits(t *testing.T) {
	f := bonded()
	delete(f.Links, "bond0")
	c := Policy{}.Choose(f, Had{})
	if !fault.Is(c.Err, fault.NotFound) || !strings.Contains(fault.HintOf(c.Err), "10.0.1.5 on eth2 (link down)") {
		t.Errorf("%v, hint %q", c.Err, fault.HintOf(c.Err))
	}
}

// FuzzParseMethod: what is read is printed as it was, and read again.
func FuzzParseMethod(f *testing.F) {
	for _, seed := range []string{"", "score", "first-found", "can-reach=192.0.2.1", "interface=eth.*,en0", "skip-interface=^br", "cidr=10.0.0.0/8", "kubernetes-internal-ip", "interface=("} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMethod(text)
		if err != nil {
			return
		}
		if again, err := ParseMethod(m.String()); err != nil || again.String() != m.String() {
			t.Errorf("%q is read back as %q, %v", m, again, err)
		}
	})
}
