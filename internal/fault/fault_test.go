// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestErrorReadsAsPathAndKeepsKindHintAndCause(t *testing.T) {
	err := New(Conflict, "write block %s: %w", "10.0.0.0/26", io.ErrUnexpectedEOF)
	err = fmt.Errorf("assign address: %w", Hint(err, "try %s", "again"))
	err = Hint(err, "a later hint")

	if got, want := err.Error(), "assign address: write block 10.0.0.0/26: unexpected EOF"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if KindOf(err) != Conflict || !Is(err, Conflict) || Is(nil, Internal) {
		t.Errorf("kind %v, want conflict", KindOf(err))
	}
	if got := HintOf(err); got != "try again" {
		t.Errorf("hint %q, want the one nearest to the cause", got)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
}

func TestKindsHaveDistinctCodes(t *testing.T) {
	seen := map[int]Kind{}
	for k := Internal; k <= Unavailable; k++ {
		if other, dup := seen[k.ExitCode()]; dup {
			t.Errorf("%v and %v share exit code %d", k, other, k.ExitCode())
		}
		seen[k.ExitCode()] = k
		if ParseKind(k.String()) != k {
			t.Errorf("ParseKind(%q) = %v", k, ParseKind(k.String()))
		}
	}
}
