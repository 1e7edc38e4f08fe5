// SPDX-License-Identifier: Apache-2.0

package table

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// TestSoak churns a table of 200 peers: routes come and go, sessions die,
// restart and come back, listeners read late. At every quiet moment table and
// listeners equal the oracle. OCICAT_SOAK_SEED repeats a run.
func TestSoak(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("OCICAT_SOAK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("OCICAT_SOAK_SEED=%d", seed)
	const peers, quietMoments, changes = 200, 5, 1000
	s := &soak{world: newWorld(), t: t, rand: rand.New(rand.NewPCG(seed, 0)), peers: peers}
	s.trusting = true
	for i := range peers {
		s.world.join(i)
		s.update(i)
	}
	for range quietMoments {
		for range changes {
			s.step()
		}
		s.world.check(t)
		s.world.checkListeners(t)
	}
}

type soak struct {
	*world
	t     *testing.T
	rand  *rand.Rand
	peers int
}

// step is one thing that happens to one peer.
func (s *soak) step() {
	i := s.rand.IntN(s.peers)
	switch n := s.rand.IntN(100); {
	case n < 55:
		s.update(i)
	case n < 65:
		s.drop(i)
	case n < 70:
		s.world.markStale(s.t, i)
	case n < 75:
		s.world.sweep(s.t, i)
	case n < 80:
		s.world.update(s.t, i, &message.Update{EndOfRIB: true})
	case n < 85:
		s.world.join(i)
	case n < 86:
		s.originate()
	case n < 87:
		s.groups.Refresh(exportTo(i), member(i).Addr)
	default:
		if l := s.listeners[member(i).Addr]; l != nil {
			l.hear(s.t)
		}
	}
}

// drop ends a session for good; its listener is gone half of the time.
func (s *soak) drop(i int) {
	if s.rand.IntN(2) == 0 {
		s.world.leave(i)
	}
	s.world.drop(s.t, i)
}

// update lets peer i announce some of its own four blocks, and now and then one
// that others announce, too.
func (s *soak) update(i int) {
	u := &message.Update{}
	for n := range 4 {
		switch s.rand.IntN(3) {
		case 0:
			u.NLRI = append(u.NLRI, blockNumber(4*i+n))
		case 1:
			u.Withdrawn = append(u.Withdrawn, blockNumber(4*i+n))
		}
	}
	if s.rand.IntN(4) == 0 {
		u.NLRI = append(u.NLRI, blockNumber(100_000+s.rand.IntN(10)))
	}
	if len(u.NLRI) > 0 {
		u.Attrs = s.attrs(i)
	}
	s.world.update(s.t, i, u)
}

func (s *soak) attrs(i int) *message.Attrs {
	a := path(func(a *message.Attrs) { a.NextHop = member(i).Addr })
	if !member(i).Internal {
		via(member(i).AS)(a)
	}
	switch s.rand.IntN(5) {
	case 0:
		med(uint32(s.rand.IntN(3)))(a)
	case 1:
		via(speaker.ASN(65100 + s.rand.IntN(3)))(a)
	case 2:
		if member(i).Internal {
			localPref(uint32(99 + s.rand.IntN(3)))(a)
		}
	case 3:
		a.NextHop = member(s.rand.IntN(s.peers)).Addr
	}
	return a
}

func (s *soak) originate() {
	var own []netip.Prefix
	for range s.rand.IntN(5) {
		own = append(own, blockNumber(100_000+s.rand.IntN(15)))
	}
	s.world.originate(s.t, own...)
}
