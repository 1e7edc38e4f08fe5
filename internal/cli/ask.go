// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
)

// said is what one agent answered.
type said[T any] struct {
	node  string
	value T
	err   error
}

// askedAtOnce is how many agents are asked at the same time, and waitNote after
// what time the reader is told whom one waits for.
const (
	askedAtOnce = 32
	waitNote    = 2 * time.Second
)

// askAll asks the agents within reach. Those that do not answer are named in
// warnings, and make the exit code ExitProblems, unless none does: this is an
// error.
func askAll[T any](ctx context.Context, g *globals, question func(context.Context, *admin.Client) (T, error)) ([]said[T], error) {
	doors, err := g.doors(ctx, tracerGuest)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(doors, func(a, b agentDoor) int { return compareNatural(a.node, b.node) })
	all := askDoors(ctx, g, doors, question)
	answered, err := sift(g, all)
	g.incomplete = err == nil && len(answered) < len(all)
	return answered, err
}

// sift returns the answers, and warns of the agents that gave none. Where
// nobody answers, or we lack a right, that is an error.
func sift[T any](g *globals, all []said[T]) (answered []said[T], err error) {
	for _, s := range all {
		if kubeapi.IsForbidden(s.err) {
			return nil, s.err
		}
		if s.err == nil {
			answered = append(answered, s)
		}
	}
	for i, s := range all {
		switch {
		case s.err == nil:
		case len(answered) == 0 && i == len(all)-1:
			return nil, fmt.Errorf("%s: %w", s.node, s.err)
		default:
			g.warn("%s: %v", s.node, s.err)
		}
	}
	return answered, nil
}

// askDoors asks agents at the same time, and returns what they say in the order
// of doors.
func askDoors[T any](ctx context.Context, g *globals, doors []agentDoor, question func(context.Context, *admin.Client) (T, error)) []said[T] {
	var (
		running sync.WaitGroup
		one     sync.Mutex
		places  = make(chan struct{}, askedAtOnce)
		all     = make([]said[T], len(doors))
		waiting = make([]bool, len(doors))
	)
	for i, door := range doors {
		waiting[i] = true
		running.Go(func() {
			places <- struct{}{}
			value, err := askDoor(ctx, door, question)
			<-places
			one.Lock()
			defer one.Unlock()
			all[i], waiting[i] = said[T]{door.node, value, err}, false
		})
	}
	note := time.AfterFunc(waitNote, func() {
		one.Lock()
		defer one.Unlock()
		var nodes []string
		for i, door := range doors {
			if waiting[i] {
				nodes = append(nodes, door.node)
			}
		}
		if len(nodes) > 0 {
			g.note("waiting for %s", someOf(nodes))
		}
	})
	running.Wait()
	note.Stop()
	return all
}

// askDoor asks one agent within its limit.
func askDoor[T any](ctx context.Context, door agentDoor, question func(context.Context, *admin.Client) (T, error)) (value T, err error) {
	if door.away != nil {
		return value, door.away
	}
	if door.limit == 0 {
		return question(ctx, door.client)
	}
	limited, cancel := context.WithTimeout(ctx, door.limit)
	defer cancel()
	value, err = question(limited, door.client)
	var inURL *url.Error
	switch {
	case err == nil:
		return value, nil
	case limited.Err() != nil && ctx.Err() == nil:
		return value, fault.New(fault.Unavailable, "no answer within %v", door.limit)
	case errors.As(err, &inURL):
		err = inURL.Err // the rest of its text is a URL nobody typed
	}
	return value, wantsRole(err, door.as)
}

// endpointsOf asks an agent for its pods.
func endpointsOf(ctx context.Context, agent *admin.Client) ([]admin.Endpoint, error) {
	return agent.Endpoints(ctx)
}
