// SPDX-License-Identifier: Apache-2.0

package cniserver

import (
	"context"
	"sync"

	"github.com/ocicat-net/ocicat/internal/cniwire"
)

// turns lets requests of one attachment pass one after the other. The zero
// value is ready.
type turns struct {
	mu sync.Mutex
	at map[cniwire.ID]*turn
}

// turn is an attachment's right to pass: whoever holds the token has it.
type turn struct {
	token chan struct{} // holds one element while nobody passes
	users int           // requests that pass or wait
}

// take waits until id's turn is free; done frees it again. It gives up with
// ctx's cause when ctx ends.
func (t *turns) take(ctx context.Context, id cniwire.ID) (done func(), err error) {
	turn := t.enter(id)
	select {
	case <-turn.token:
		return func() {
			turn.token <- struct{}{}
			t.leave(id)
		}, nil
	case <-ctx.Done():
		t.leave(id)
		return nil, context.Cause(ctx)
	}
}

func (t *turns) enter(id cniwire.ID) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at == nil {
		t.at = map[cniwire.ID]*turn{}
	}
	if t.at[id] == nil {
		t.at[id] = &turn{token: make(chan struct{}, 1)}
		t.at[id].token <- struct{}{}
	}
	t.at[id].users++
	return t.at[id]
}

func (t *turns) leave(id cniwire.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at[id].users--
	if t.at[id].users == 0 {
		delete(t.at, id)
	}
}
