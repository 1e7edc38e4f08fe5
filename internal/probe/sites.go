// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// Sites are many as one: each node's by its name. A node that has none is out
// of reach: every question about it is Unavailable.
type Sites map[string]Site

var _ Site = Sites(nil)

func (s Sites) of(at trace.Place) (Site, error) {
	site := s[at.Node]
	if site == nil {
		return nil, fault.New(fault.Unavailable, "ask the kernel of %s: its agent is out of reach", at.Node)
	}
	return site, nil
}

// Route asks the node of at.
func (s Sites) Route(at trace.Place, q trace.Query) (host.Route, bool, error) {
	site, err := s.of(at)
	if err != nil {
		return host.Route{}, false, err
	}
	return site.Route(at, q)
}

// Neigh asks the node of at.
func (s Sites) Neigh(at trace.Place, dev string, ip netip.Addr) (host.Neigh, bool, error) {
	site, err := s.of(at)
	if err != nil {
		return host.Neigh{}, false, err
	}
	return site.Neigh(at, dev, ip)
}

// Link asks the node of at.
func (s Sites) Link(at trace.Place, dev string) (host.Link, bool, error) {
	site, err := s.of(at)
	if err != nil {
		return host.Link{}, false, err
	}
	return site.Link(at, dev)
}

// Masquerades asks the node of at.
func (s Sites) Masquerades(at trace.Place, src, dst netip.Addr) (bool, error) {
	site, err := s.of(at)
	if err != nil {
		return false, err
	}
	return site.Masquerades(at, src, dst)
}

// Sysctl asks the node of at.
func (s Sites) Sysctl(at trace.Place, path string) (string, error) {
	site, err := s.of(at)
	if err != nil {
		return "", err
	}
	return site.Sysctl(at, path)
}

// Send has the node of the sender send.
func (s Sites) Send(ctx context.Context, from Sender, to netip.Addr, tag Tag) (time.Time, error) {
	site, err := s.of(from.At)
	if err != nil {
		return time.Time{}, err
	}
	return site.Send(ctx, from, to, tag)
}

// Listen watches the taps of all nodes. One node that fails ends it.
func (s Sites) Listen(ctx context.Context, tag Tag, taps []Tap, ready func(), each func(Capture)) error {
	byNode := map[string][]Tap{}
	for _, tap := range taps {
		if _, err := s.of(tap.At); err != nil {
			return err
		}
		byNode[tap.At.Node] = append(byNode[tap.At.Node], tap)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		listening, opening sync.WaitGroup
		one                sync.Mutex
		errs               []error
	)
	for node, taps := range byNode {
		opening.Add(1)
		opened := sync.OnceFunc(opening.Done)
		listening.Go(func() {
			defer opened()
			err := s[node].Listen(ctx, tag, taps, opened, func(c Capture) {
				one.Lock()
				defer one.Unlock()
				each(c)
			})
			if err != nil {
				one.Lock()
				errs = append(errs, err)
				one.Unlock()
				cancel()
			}
		})
	}
	opening.Wait()
	if ctx.Err() == nil {
		ready()
	}
	listening.Wait()
	return errors.Join(errs...)
}
