// SPDX-License-Identifier: Apache-2.0

package store

import "github.com/ocicat-net/ocicat/internal/fault"

// Write is one of the writes of a transaction: a Put, or a Delete of an object
// that exists. A back end that can carry out several as one has the method
//
//	Commit(ctx context.Context, writes []Write) error
//
// All happen, or none: Conflict says that a comparison failed, and ErrAmbiguous
// means of all what it means of one. No key may be named twice.
// errors.ErrUnsupported, before anything was sent, is the answer of a wrapper
// whose store has no transactions.
type Write struct {
	Key Key
	// Value is what is written; Delete removes the object instead.
	Value  []byte
	Delete bool
	// Prev is the revision the object must still be at; 0: it must not exist,
	// which a Delete cannot ask. AnyRevision is not allowed.
	Prev Revision
}

// CheckWrites says what is wrong with a transaction, as Invalid.
func CheckWrites(writes []Write) error {
	if len(writes) == 0 {
		return fault.New(fault.Invalid, "commit: no writes")
	}
	named := make(map[Key]bool, len(writes))
	for _, w := range writes {
		check := w.Key.Validate
		if !w.Delete {
			check = func() error { return CheckPut(w.Key, w.Value) }
		}
		switch err := check(); {
		case err != nil:
			return err
		case named[w.Key]:
			return fault.New(fault.Invalid, "commit: %s is written twice", w.Key)
		case w.Prev == AnyRevision || w.Delete && w.Prev == 0:
			return fault.New(fault.Invalid, "commit: %s without a comparison", w.Key)
		}
		named[w.Key] = true
	}
	return nil
}
