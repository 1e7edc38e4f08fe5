// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// KeyError is the failure of one key among many. A section returns any number
// of them, joined; each key that is not among them is right.
type KeyError struct {
	Key string // as "route 10.0.0.0/26"
	Err error  // a path of its own that names the key
}

// Error is Err's text.
func (e *KeyError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *KeyError) Unwrap() error { return e.Err }

// Failures splits a section's error into one error per key. What has no key
// is the section's own failure and has the key "".
func Failures(err error) map[string]error {
	failed := map[string]error{}
	collect(err, failed)
	return failed
}

func collect(err error, failed map[string]error) {
	switch e := err.(type) {
	case nil:
	case *KeyError:
		failed[e.Key] = e.Err
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			collect(part, failed)
		}
	default:
		failed[""] = err
	}
}

// KeyStatus is one key that cannot be made right.
type KeyStatus struct {
	Key   string    // "" for the section itself
	Error error     // of the last pass
	Tries int       // failed passes in a row
	Since time.Time // when the first of them failed
}

// stuckKeys are the keys that failed in the last pass.
type stuckKeys map[string]KeyStatus

// update takes a pass's error in and returns which keys it made stuck and
// which recovered, each sorted.
func (m *stuckKeys) update(err error, now time.Time) (stuck, recovered []KeyStatus) {
	next := stuckKeys{}
	for key, err := range Failures(err) {
		st, again := (*m)[key]
		if !again {
			st = KeyStatus{Key: key, Since: now}
		}
		st.Error = err
		st.Tries++
		next[key] = st
		if !again {
			stuck = append(stuck, st)
		}
	}
	for key, st := range *m {
		if _, still := next[key]; !still {
			recovered = append(recovered, st)
		}
	}
	*m = next
	slices.SortFunc(stuck, byKey)
	slices.SortFunc(recovered, byKey)
	return stuck, recovered
}

// retry is the wait until the key that failed least often is tried again. The
// wait doubles with each try of a key; a newly stuck one does not wait for
// the old.
func (m stuckKeys) retry() time.Duration {
	tries := retryDoublings
	for _, st := range m {
		tries = min(tries, st.Tries-1)
	}
	return min(firstRetry<<tries, lastRetry)
}

func (m stuckKeys) sorted() []KeyStatus {
	return slices.SortedFunc(maps.Values(m), byKey)
}

func byKey(a, b KeyStatus) int { return cmp.Compare(a.Key, b.Key) }
