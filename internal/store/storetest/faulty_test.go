// SPDX-License-Identifier: Apache-2.0

package storetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
)

func key(name string) store.Key { return store.Key{Kind: store.Node, Name: name} }

func TestFaultyWithoutRulesIsAStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return storetest.NewFaulty(mem.New()) })
}

func TestNthCallFails(t *testing.T) {
	ctx := t.Context()
	f := storetest.NewFaulty(mem.New())
	f.Inject(storetest.Rule{Op: storetest.OpPut, Skip: 2, Times: 1, Effect: storetest.Refuse})
	for n := 1; n <= 4; n++ {
		_, err := f.Put(ctx, key("a"), nil, store.AnyRevision)
		if failed := fault.Is(err, fault.Unavailable); failed != (n == 3) || errors.Is(err, store.ErrAmbiguous) {
			t.Errorf("put %d: %v, want the third alone to be unavailable", n, err)
		}
	}
	if f.Calls(storetest.OpPut) != 4 || f.Calls(storetest.OpGet) != 0 {
		t.Errorf("%d puts and %d gets counted, want 4 and 0", f.Calls(storetest.OpPut), f.Calls(storetest.OpGet))
	}
}

func TestAmbiguousWrites(t *testing.T) {
	ctx := t.Context()
	for _, test := range []struct {
		effect          storetest.Effect
		now, afterFlush bool
	}{
		{storetest.Lose, true, true},
		{storetest.Vanish, false, false},
		{storetest.Late, false, true},
	} {
		f := storetest.NewFaulty(mem.New())
		f.Inject(storetest.Rule{Effect: test.effect, Op: storetest.OpPut})
		_, err := f.Put(ctx, key("a"), nil, 0)
		if !errors.Is(err, store.ErrAmbiguous) || !fault.Is(err, fault.Unavailable) {
			t.Errorf("effect %d: %v, want it ambiguous", test.effect, err)
		}
		f.Heal()
		if got := exists(ctx, f); got != test.now {
			t.Errorf("effect %d: exists %t right after, want %t", test.effect, got, test.now)
		}
		if errs := f.Flush(ctx); len(errs) != 0 {
			t.Errorf("effect %d: flush: %v", test.effect, errs)
		}
		if got := exists(ctx, f); got != test.afterFlush {
			t.Errorf("effect %d: exists %t after flush, want %t", test.effect, got, test.afterFlush)
		}
	}
}

func TestLateWriteMeetsItsComparison(t *testing.T) {
	ctx := t.Context()
	f := storetest.NewFaulty(mem.New())
	f.Inject(storetest.Rule{Op: storetest.OpPut, Times: 1, Effect: storetest.Late})
	if _, err := f.Put(ctx, key("a"), []byte("late"), 0); err == nil {
		t.Fatal("the first put must be late")
	}
	if _, err := f.Put(ctx, key("a"), []byte("second"), 0); err != nil {
		t.Fatal(err)
	}
	if errs := f.Flush(ctx); len(errs) != 1 || !fault.Is(errs[0], fault.Conflict) {
		t.Errorf("flush: %v, want one conflict", errs)
	}
}

func TestDelayEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := storetest.NewFaulty(mem.New())
		f.Inject(storetest.Rule{Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := f.Get(ctx, key("a"))
		if !fault.Is(err, fault.Unavailable) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v, want unavailable after 1s", time.Since(start), err)
		}
	})
}

func exists(ctx context.Context, s store.Store) bool {
	_, err := s.Get(ctx, key("a"))
	return err == nil
}
