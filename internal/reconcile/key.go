// SPDX-License-Identifier: Apache-2.0

package reconcile

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
