// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	cases "github.com/ocicat-net/ocicat/test/chaos"
)

// TestCooldown attaches and detaches pods at random on two nodes that borrow
// from each other: no address comes back before it rested, and all do in the
// end. The twin runs without a cooldown.
func TestCooldown(t *testing.T) {
	record := cases.Begin(t, "B22", "pods come and go at random on two nodes of a small pool, cooldown 120 s", "no address given again earlier, none lost")
	seed := cases.Seed(t)
	pods := cases.Scale(2_000, 100_000)
	for _, rest := range []time.Duration{2 * time.Minute, 0} {
		synctest.Test(t, func(t *testing.T) {
			s := narrow(t, 4)
			if err := s.client(s.mem).SetConfig(t.Context(), alloc.Config{AutoAllocate: true, CooldownSecs: int(rest.Seconds())}); err != nil {
				t.Fatal(err)
			}
			c := churn{site: s, rng: rand.New(rand.NewPCG(seed, 1)), shortest: time.Hour, released: map[netip.Addr]time.Time{}}
			n1, n2 := s.pair(ReserveConfig{})
			for i := range pods {
				c.step([]*agent{n1, n2}[c.rng.IntN(2)], fmt.Sprint("pod-", i))
			}
			switch {
			case rest == 0 && c.shortest >= 2*time.Minute:
				t.Errorf("twin: shortest time to the next use %s: the meter does not see early ones", c.shortest)
			case rest == 0:
				record.Twinf("without cooldown an address came back after %s", c.shortest)
			case c.shortest < rest:
				t.Errorf("seed %d: an address came back after %s, want at least %s", seed, c.shortest, rest)
			default:
				record.Measuredf("%d addresses given, %d times there was none; the earliest came back after %s (seed %d)", c.given, c.none, c.shortest, seed)
			}
			c.end(rest)
		})
	}
}

// churn attaches and detaches pods and remembers when addresses were released.
type churn struct {
	*site
	rng         *rand.Rand
	live        []attached
	released    map[netip.Addr]time.Time
	shortest    time.Duration // from a release to the next use
	given, none int
}

type attached struct {
	on     *agent
	handle string
	addr   netip.Addr
}

// step takes an address or releases one, and lets a while pass.
func (c *churn) step(on *agent, handle string) {
	if len(c.live) > 12 || len(c.live) > 0 && c.rng.IntN(2) == 0 {
		c.release(c.rng.IntN(len(c.live)))
	} else if addr, err := on.Take(c.t.Context(), Claim{Handle: handle}); err == nil {
		if at, again := c.released[addr]; again {
			c.shortest = min(c.shortest, time.Since(at))
		}
		c.live = append(c.live, attached{on, handle, addr})
		c.given++
	} else if fault.Is(err, fault.Exhausted) {
		c.none++
	} else {
		c.t.Fatal(err)
	}
	time.Sleep(time.Duration(c.rng.IntN(20)) * time.Second)
	synctest.Wait()
}

// release gives one address back and waits until the datastore has it.
func (c *churn) release(i int) {
	a := c.live[i]
	c.live = append(c.live[:i:i], c.live[i+1:]...)
	a.on.Release(a.handle, a.addr, func() { c.released[a.addr] = time.Now() })
	synctest.Wait()
}

// end releases everything; after the cooldown every address must be usable.
func (c *churn) end(rest time.Duration) {
	for len(c.live) > 0 {
		c.release(0)
	}
	time.Sleep(rest + time.Second)
	synctest.Wait()
	held := 0
	for {
		if _, err := c.site.client(c.mem).AutoAssign(c.t.Context(), AssignRequest{Node: "n1", Use: Workload, Family: 4, Num: 1}); err != nil {
			break
		}
		held++
	}
	uses, err := c.client(c.mem).Utilization(c.t.Context())
	if err != nil || uses[0].InUse != 32 || uses[0].Available.Sign() != 0 {
		c.t.Errorf("after all were released %d could be taken, pool %+v, %v", held, uses, err)
	}
}

// TestRestingAddressIsRefused asks for an address that rests.
func TestRestingAddressIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := narrow(t, 2)
		if err := s.client(s.mem).SetConfig(t.Context(), alloc.Config{AutoAllocate: true, CooldownSecs: 60}); err != nil {
			t.Fatal(err)
		}
		a := s.run(ReserveConfig{Node: "n1", Size: 2})
		addr := s.take(a, "first")
		settle()
		a.Release("first", addr, nil)
		settle()
		_, err := a.Take(t.Context(), Claim{Handle: "second", Want: addr})
		if !fault.Is(err, fault.Conflict) {
			t.Errorf("resting: %v, want a conflict", err)
		}
		time.Sleep(time.Minute)
		if _, err := a.Take(t.Context(), Claim{Handle: "second", Want: addr}); err != nil {
			t.Errorf("rested: %v", err)
		}
	})
}
