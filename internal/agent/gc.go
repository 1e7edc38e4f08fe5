// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/journal"
)

// GC detaches, as a DEL does, whatever the journal has of a network and the
// runtime does not list. One that fails does not keep the others.
func (a *Agent) GC(ctx context.Context, req cniwire.GCRequest) error {
	if err := a.serving(); err != nil {
		return err
	}
	containers := make([]string, len(req.Valid))
	for i, id := range req.Valid {
		containers[i] = id.ContainerID
	}
	a.reserve.Listed(req.Network, containers)
	stale := a.stale(req)
	var errs []error
	for i, id := range stale {
		if ctx.Err() != nil {
			return fault.New(fault.Unavailable, "collect attachments of network %s: %d of %d done: %w", req.Network, i-len(errs), len(stale), ctx.Err())
		}
		if err := a.release(ctx, id); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fault.Hint(fault.New(fault.KindOf(errs[0]), "collect attachments of network %s: %d of %d not detached: %s", req.Network, len(errs), len(stale), oneLine(errs)),
			"The runtime's next GC tries them again.")
	}
	return nil
}

// stale is what a GC has to detach. Attachments adopted from the kernel are
// left to their DEL: the journal that knew their network was lost, and each
// has a pod, or its link would be gone.
func (a *Agent) stale(req cniwire.GCRequest) []cluster.EndpointID {
	valid := make(map[cluster.EndpointID]bool, len(req.Valid))
	for _, id := range req.Valid {
		valid[cluster.EndpointID(id)] = true
	}
	var stale []cluster.EndpointID
	for _, att := range a.journal.List() {
		if att.Network != req.Network || att.State == journal.Detached || valid[att.ID()] {
			continue
		}
		if adopted(att) {
			a.log.Info("attachment of an unknown network kept from GC", "id", att.ID(), "pod", podName(att.Endpoint))
			continue
		}
		stale = append(stale, att.ID())
	}
	return stale
}

// adopted reports whether a record was made of what the kernel held: an ADD's
// names the pod's namespace.
func adopted(att journal.Attachment) bool { return att.NetNSPath == "" }

// oneLine is errs in one line, as an answer to the runtime is.
func oneLine(errs []error) string {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return strings.Join(texts, "; ")
}
