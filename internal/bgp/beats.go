// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"math/rand/v2"
	"time"
)

// beats are the times at which a speaker sends keepalives. They are the same
// for every peer with the same interval, so that an idle node wakes up once
// for all of them. RFC 4271 section 10 wants jitter, and allows one for all
// peers: two beats are between 3/4 and all of the interval apart, at random.
// Beats never change, so writers share them without a lock.
type beats struct {
	base time.Time
	seed uint64
}

func newBeats() beats { return beats{base: time.Now(), seed: rand.Uint64()} }

// next is how long after now the next keepalive is due that is sent every so
// often at the latest. A writer that comes shortly before a beat, as after a
// session's first KEEPALIVE, sends one more on its way to the beat after it.
func (b beats) next(now time.Time, every time.Duration) time.Duration {
	period, since := every-every/8, now.Sub(b.base)
	i := uint64(since / period)
	at := b.at(i, period, every)
	for at <= since {
		i++
		at = b.at(i, period, every)
	}
	if wait := at - since; wait >= every/4 {
		return wait
	}
	return every / 2
}

// at is when, after the base, beat i is.
func (b beats) at(i uint64, period, every time.Duration) time.Duration {
	jitter := rand.New(rand.NewPCG(b.seed, i)).Int64N(int64(every/8) + 1)
	return time.Duration(i)*period + time.Duration(jitter)
}
