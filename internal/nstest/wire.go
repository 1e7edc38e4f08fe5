// SPDX-License-Identifier: Apache-2.0

package nstest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Veth connects two namespaces with a veth pair, both ends up.
func Veth(a *NS, aName string, b *NS, bName string) {
	a.t.Helper()
	a.Run("ip", "link", "add", aName, "type", "veth", "peer", "name", bName, "netns", b.Path())
	a.IP("link set " + aName + " up")
	b.IP("link set " + bName + " up")
}

// Switch is a layer-2 network: a bridge in a namespace of its own.
type Switch struct {
	ns    *NS
	ports int
}

// NewSwitch makes a switch without ports.
func NewSwitch(t testing.TB) *Switch {
	t.Helper()
	s := &Switch{ns: New(t)}
	s.ns.IP("link add br0 type bridge forward_delay 0 mcast_snooping 0")
	s.ns.IP("link set br0 up")
	return s
}

// NS is the namespace the switch lives in, to watch or cut its ports; the
// ports are p1, p2, … in the order of Plug.
func (s *Switch) NS() *NS { return s.ns }

// Plug connects a new device of namespace n, up, to the switch and returns the
// name of the switch's port.
func (s *Switch) Plug(n *NS, device string) string {
	s.ns.t.Helper()
	s.ports++
	port := fmt.Sprintf("p%d", s.ports)
	Veth(s.ns, port, n, device)
	s.ns.IP("link set " + port + " master br0")
	return port
}

// Eventually waits until cond holds, asking it more and more rarely, and ends
// the test if it does not within d. The message is made of what when that
// happens, one after the other; a func() string is called then.
func Eventually(t testing.TB, d time.Duration, cond func() bool, what ...any) {
	t.Helper()
	deadline := time.Now().Add(d)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			break
		}
		time.Sleep(pause)
	}
	var text strings.Builder
	for _, w := range what {
		if f, ok := w.(func() string); ok {
			w = f()
		}
		fmt.Fprint(&text, w)
	}
	t.Fatalf("not within %v: %s", d, text.String())
}
