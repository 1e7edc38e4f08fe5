// SPDX-License-Identifier: Apache-2.0

package session

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// FuzzStep feeds sequences of events, each a byte for the kind and one for its
// particulars, and checks after each what must hold always.
func FuzzStep(f *testing.F) {
	f.Add([]byte{0, 0, 5, 0, 8, 1, 9, 1, 10, 1, 13, 1})
	f.Add([]byte{0, 0, 7, 0, 5, 0, 8, 1, 8, 2, 9, 1, 9, 2})
	f.Add([]byte{0, 0, 5, 0, 8, 1, 9, 1, 7, 0, 8, 2, 9, 2, 10, 2, 14, 200, 3, 1})
	f.Add([]byte{0, 0, 5, 0, 8, 1, 9, 1, 13, 1, 14, 255, 14, 255, 1, 0, 0, 0, 2, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &checker{t: t, f: New(ours(), len(data)%2 == 0, rand.New(rand.NewPCG(1, 2))), now: time.Unix(1000, 0), open: map[ConnID]bool{}, alive: map[ConnID]bool{}}
		for ; len(data) >= 2; data = data[2:] {
			c.step(c.event(data[0], data[1]))
		}
	})
}

// checker follows what an FSM asks for.
type checker struct {
	t       *testing.T
	f       *FSM
	now     time.Time
	last    ConnID
	open    map[ConnID]bool // given to the FSM and not closed by it
	alive   map[ConnID]bool // has got Keepalives
	dialing bool
	up      ConnID // 0 for none
	stale   bool   // the table holds stale routes
}

func (c *checker) event(kind, arg byte) Event {
	id := ConnID(arg)
	if n := len(c.open); n > 0 && arg < 128 { // mostly one that exists
		id = c.last - ConnID(arg%3)
	}
	switch kind % 16 {
	case 0:
		return Start{}
	case 1:
		return Stop{Notification: notificationOf(arg), Reason: "stop"}
	case 2:
		cfg := ours()
		cfg.Passive = arg&1 != 0
		if arg&2 != 0 {
			cfg.RestartTime = 0
		}
		return Reset{Config: cfg, Notification: notificationOf(arg >> 2), Reason: "reset"}
	case 3:
		return Forwarding{}
	case 4:
		return Loaded{id}
	case 5:
		if c.dialing {
			return Dialed{c.next()}
		}
		return Tick{}
	case 6:
		return DialFailed{Reason: "failed"}
	case 7:
		return Accepted{c.next()}
	case 8:
		return msg(id, openVariant(arg))
	case 9:
		return msg(id, keepalive)
	case 10:
		return msg(id, &message.Update{EndOfRIB: arg&1 != 0})
	case 11:
		return msg(id, notificationOr(arg))
	case 12:
		return Malformed{id, notificationOr(arg)}
	case 13:
		return Lost{id, "lost"}
	case 14:
		c.now = c.now.Add(time.Duration(arg) * time.Second)
	case 15:
		if at := c.f.Deadline(); at.After(c.now) {
			c.now = at
		}
	}
	return Tick{}
}

func (c *checker) next() ConnID {
	c.last++
	c.open[c.last] = true
	return c.last
}

func openVariant(arg byte) *message.Open {
	o := openOf(high)
	if arg&1 != 0 {
		o.RouterID = low
	}
	switch arg >> 1 % 8 {
	case 1:
		o.Capabilities.Restart = nil
	case 2:
		o.AS = 1
	case 3:
		o.HoldTime = 0
	case 4:
		o.Capabilities = message.Capabilities{}
	case 5:
		o.HoldTime = 3
	}
	return o
}

func notificationOf(arg byte) *message.Notification {
	if arg&1 == 0 {
		return nil
	}
	return notificationOr(arg)
}

func notificationOr(arg byte) *message.Notification {
	return &message.Notification{Code: message.Code(arg%7 + 1), Subcode: message.Subcode(arg / 7 % 10)}
}

// step gives an event and holds the actions against what is known.
func (c *checker) step(ev Event) {
	if _, failed := ev.(DialFailed); failed {
		c.dialing = false
	}
	if _, ok := ev.(Dialed); ok {
		c.dialing = false
	}
	for _, a := range c.f.Step(ev, c.now) {
		c.act(a)
	}
	c.invariants(ev)
}

func (c *checker) act(a Action) {
	switch a := a.(type) {
	case Dial:
		c.want(!c.dialing, "dials twice")
		c.dialing = true
	case CancelDial:
		c.want(c.dialing, "cancels no dial")
		c.dialing = false
	case Send:
		c.want(c.open[a.Conn], "sends on a closed connection")
	case Keepalives:
		c.want(c.open[a.Conn] && !c.alive[a.Conn], "keepalives twice or on a closed connection")
		c.alive[a.Conn] = true
	case Close:
		c.want(c.open[a.Conn], "closes twice")
		delete(c.open, a.Conn)
	case Up:
		c.want(c.up == 0, "up twice")
		c.want(c.open[a.Params.Conn] && c.alive[a.Params.Conn], "up on a dead connection")
		c.up = a.Params.Conn
	case Down:
		c.want(c.up == a.Conn, "down without up")
		c.up, c.stale = 0, a.KeepStale
	case DropStale:
		c.want(c.stale, "drops stale routes where there are none")
		c.stale = false
	case Learn:
		c.want(c.up != 0, "learns without a session")
	case Readvertise:
		c.want(c.up == a.Conn, "readvertises without a session")
	}
}

func (c *checker) invariants(ev Event) {
	state, at := c.f.State(), c.f.Deadline()
	c.want(len(c.open) <= 2, "more than two connections")
	c.want(len(c.open) == len(c.f.conns), "a connection is lost or leaked")
	c.want(c.f.dialing == c.dialing, "dial unclear")
	c.want((c.up != 0) == (state == speaker.Established), "state is not what the driver was told")
	c.want(c.stale == c.f.Stale(), "stale is not what the driver was told")
	c.want(at.IsZero() || at.Before(c.now.Add(5*time.Minute)), "deadline far away")
	c.want(state != speaker.Idle || !c.dialing && len(c.open) == 0, "busy in Idle")
	if f := c.f; f.started && !f.cfg.Passive && !f.dialing && len(f.conns) == 0 {
		c.want(!f.retryAt.IsZero(), "gave up dialling")
	}
	if _, tick := ev.(Tick); !tick {
		return
	}
	for range 4 { // ticks without end would burn the processor
		for _, a := range c.f.Step(Tick{}, c.now) {
			c.act(a)
		}
	}
	at = c.f.Deadline()
	c.want(at.IsZero() || at.After(c.now), "due again at once")
}

func (c *checker) want(ok bool, what string) {
	c.t.Helper()
	if !ok {
		c.t.Fatalf("%s (%v)", what, c.f.State())
	}
}
