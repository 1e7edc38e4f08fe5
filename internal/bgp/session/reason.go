// SPDX-License-Identifier: Apache-2.0

package session

import "fmt"

// why collects what people are told about a session.
type why struct {
	down   string // why the session is not up; not about dialling
	last   string // why it last fell
	dial   string // why the last dial failed
	hint   string
	dialed int // how often in a row, for the same reason
}

// up forgets the troubles on the way to Established.
func (w *why) up() { *w = why{last: w.last} }

// lost notes why an established session fell.
func (w *why) lost(reason string) { w.last = reason }

// fell notes why a connection ended, or why none is wanted.
func (w *why) fell(reason string) {
	if reason != "" {
		*w = why{down: reason, last: w.last}
	}
}

func (w *why) notDialled(reason, hint string) {
	if reason != w.dial {
		w.dialed = 0
	}
	w.dial, w.hint = reason, hint
	w.dialed++
}

// text is what status prints.
func (w *why) text(established bool) string {
	if established {
		return w.last
	}
	dial := w.dial
	if w.dialed > 1 {
		dial = fmt.Sprintf("%s %d×", dial, w.dialed)
	}
	if w.hint != "" {
		dial += " (" + w.hint + ")"
	}
	switch {
	case dial == "" && w.down == "":
		return w.last
	case dial == "":
		return w.down
	case w.down == "":
		return dial
	}
	return w.down + "; since then: " + dial
}
