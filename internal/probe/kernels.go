// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"net/netip"
	"os"

	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/nft"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// Kernels answers trace's questions by asking the kernels themselves, each in
// its namespace. A place that was not added has no links and no routes: a pod
// whose namespace is gone.
type Kernels struct {
	ctx    context.Context
	places map[trace.Place]*place
}

// place is one network namespace.
type place struct {
	*kernel.Handle
	ns *os.File // the caller's of Add
}

var _ Site = (*Kernels)(nil)

// NewKernels returns an oracle without places; its questions end with ctx.
func NewKernels(ctx context.Context) *Kernels {
	return &Kernels{ctx: ctx, places: map[trace.Place]*place{}}
}

// Add makes at known by its network namespace, which stays the caller's and
// open until Close.
func (k *Kernels) Add(at trace.Place, ns *os.File) error {
	if k.places[at] != nil {
		return nil
	}
	handle, err := kernel.OpenAt(ns)
	if err != nil {
		return fault.New(fault.KindOf(err), "open %s: %w", at, err)
	}
	k.places[at] = &place{handle, ns}
	return nil
}

// Close gives up all places.
func (k *Kernels) Close() error {
	var errs []error
	for _, place := range k.places {
		errs = append(errs, place.Close())
	}
	return errors.Join(errs...)
}

// Route is the kernel's own lookup.
func (k *Kernels) Route(at trace.Place, q trace.Query) (host.Route, bool, error) {
	return ask(k, at, func(h *kernel.Handle) (host.Route, error) {
		return h.Lookup(k.ctx, kernel.Query{Dst: q.Dst, Src: q.Src, Iif: q.Iif})
	})
}

// Neigh is the neighbour entry of ip on dev.
func (k *Kernels) Neigh(at trace.Place, dev string, ip netip.Addr) (host.Neigh, bool, error) {
	return ask(k, at, func(h *kernel.Handle) (host.Neigh, error) { return h.Neighbour(k.ctx, dev, ip) })
}

// Link is the device dev.
func (k *Kernels) Link(at trace.Place, dev string) (host.Link, bool, error) {
	return ask(k, at, func(h *kernel.Handle) (host.Link, error) { return h.Link(k.ctx, dev) })
}

// Masquerades asks the node's packet filter.
func (k *Kernels) Masquerades(at trace.Place, src, dst netip.Addr) (bool, error) {
	place := k.places[at]
	if place == nil {
		return false, nil
	}
	h, err := nft.OpenAt(place.ns)
	if err != nil {
		return false, err
	}
	defer func() { _ = h.Close() }()
	from, err := h.InSet(core.FilterTable, core.MasqueradeSet, src)
	if err != nil || !from {
		return false, err
	}
	inside, err := h.InSet(core.FilterTable, core.PoolsSet, dst)
	return err == nil && !inside, err
}

// Sysctl reads a setting below /proc/sys.
func (k *Kernels) Sysctl(at trace.Place, path string) (string, error) {
	value, _, err := ask(k, at, func(h *kernel.Handle) (string, error) { return h.Sysctl(path) })
	return value, err
}

// ask turns "there is none" into false.
func ask[T any](k *Kernels, at trace.Place, question func(*kernel.Handle) (T, error)) (T, bool, error) {
	var none T
	place := k.places[at]
	if place == nil {
		return none, false, nil
	}
	answer, err := question(place.Handle)
	if fault.Is(err, fault.NotFound) {
		return none, false, nil
	}
	return answer, err == nil, err
}
