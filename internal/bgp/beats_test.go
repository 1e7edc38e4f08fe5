// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// TestBeats: whenever a writer begins, its pauses are never longer than the
// interval, from the third on never shorter than three quarters of it, and at
// the times of every other writer.
func TestBeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := beats{base: time.Unix(1000, 0), seed: rapid.Uint64().Draw(t, "seed")}
		every := time.Duration(rapid.IntRange(1, 60_000).Draw(t, "ms")) * time.Millisecond
		walk := func(label string) map[time.Time]bool {
			now := b.base.Add(time.Duration(rapid.Int64Range(0, int64(100*every)).Draw(t, label)))
			times := map[time.Time]bool{}
			for i := range 300 {
				pause, least := b.next(now, every), every/4
				if i >= 2 {
					least = every*3/4 - 1
					times[now] = true
				}
				if pause < least || pause > every {
					t.Fatalf("pause %d of %v is %v", i, every, pause)
				}
				now = now.Add(pause)
			}
			return times
		}
		one, other, same := walk("one"), walk("other"), 0
		for at := range one {
			if other[at] {
				same++
			}
		}
		if same < 150 {
			t.Errorf("%d of %d keepalives at the same times", same, len(one))
		}
	})
}

// TestKeepaliveNoted: once the session is up, a KEEPALIVE is a time stamp and
// no message for the state machine; any other message still is one.
func TestKeepaliveNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t)
		defer w.end()
		write := func(b []byte) {
			if _, err := w.far.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		keepalive := encode(t, &message.Keepalive{})
		write(keepalive)
		if f := <-w.frames; f.typ != message.TypeKeepalive || w.heard.Load() != nil {
			t.Fatalf("before the session is up: %v is reported, heard is %v", f.typ, w.heard.Load())
		}
		w.up.Store(true)
		time.Sleep(time.Minute)
		write(keepalive)
		write(encode(t, &message.Notification{Code: message.Cease}))
		if f := <-w.frames; f.typ != message.TypeNotification {
			t.Errorf("%v is reported", f.typ)
		}
		if at := w.heard.Load(); at == nil || !at.Equal(time.Now()) {
			t.Errorf("heard at %v, now is %v", at, time.Now())
		}
		if got := w.traffic.received.Load(); got != 3 {
			t.Errorf("%d messages counted", got)
		}
	})
}
