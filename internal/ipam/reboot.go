// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// listing is what the runtime said last it has in one network.
type listing map[string]bool // by handle

// Listed tells which containers the runtime has in a network. What the boot
// before left and is not among them was confirmed once; what is among them
// stays held until the lease time is over.
func (r *Reserve) Listed(network string, containers []string) {
	l := listing{}
	for _, id := range containers {
		l[names.Handle(network, id)] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listings[network] = l
}

// runtimeSays tells whether the runtime has a handle's container, as far as it
// was heard of the handle's network in this run. r.mu is held.
func (r *Reserve) runtimeSays(handle string) (has, heard bool) {
	for network, l := range r.listings {
		if strings.HasPrefix(handle, names.Handle(network, "")) {
			has, heard = has || l[handle], true
		}
	}
	return has, heard
}

// patienceWith is for how long an allocation that no pod accounts for must have
// been seen before it is released, and whether it ever is. Of this boot half
// the time between two looks is enough. Of the boot before nothing can live,
// unless this machine is a copy of another's disk: that one has the takeover
// time to protest, and then all stays for the lease time, as what the runtime
// lists does. r.mu is held.
func (r *Reserve) patienceWith(who alloc.Attribute) (wait time.Duration, ever bool) {
	boot, kind := who.Secondary[alloc.AttrBoot], who.Secondary[alloc.AttrType]
	has, heard := r.runtimeSays(who.Handle)
	switch {
	case boot == "" || kind != "":
		return 0, false // not a pod's of ours
	case boot == r.cfg.BootID:
		return r.checkInterval() / 2, true
	case r.identity != nil:
		return 0, false // it is not known who is this node
	case r.copied || r.lease.last.Contested || has:
		return r.cfg.Times.Lease, true
	case heard:
		return r.cfg.Times.confirmHeard(), true
	}
	return r.cfg.Times.Takeover, true
}

// judge releases an allocation that no pod accounts for once it was seen twice,
// far enough apart.
func (r *Reserve) judge(s stray, who alloc.Attribute, since time.Time) {
	if wait, ever := r.patienceWith(who); ever && time.Since(since) >= wait {
		r.log.Info("released an address of this node that no pod holds", "address", s.addr, "holder", who)
		r.giveBack(s.handle, s.addr, nil)
	}
}

// contested reports whether another boot of this instance was seen alive: one
// of the two machines is a copy of the other.
func (r *Reserve) contested() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lease.last
	return r.copied || l.Contested && l.InstanceUID == r.cfg.InstanceUID && l.BootID == r.cfg.BootID
}

// protested reports whether the stored heartbeat is this agent's last one with
// the protest of the machine it is a copy of.
func (r *Reserve) protested(stored Heartbeat) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return stored.Contested && !r.lease.last.Contested && stored.mark() == r.lease.last.mark()
}

// hearProtest reads whether this machine is a copy of one that lives, before
// anything is judged.
func (r *Reserve) hearProtest(ctx context.Context) error {
	r.mu.Lock()
	idle := len(r.strays) == 0 || r.copied
	r.mu.Unlock()
	if idle {
		return nil
	}
	e, missing, err := r.getHeartbeat(ctx)
	if err != nil || missing {
		return err
	}
	stored, _ := ParseHeartbeat(e.Value) // one that cannot be read is the next heartbeat's matter
	if r.protested(stored) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.copied = true
	}
	return nil
}

// protest tells a copy of this machine, which took the name over in the belief
// that it is this one after a reboot, that the boot it takes for the past one
// lives. It writes nothing where the heartbeat is no copy's, or says so.
func (r *Reserve) protest(ctx context.Context, stored Heartbeat, rev store.Revision, missing bool) error {
	if missing || stored.InstanceUID != r.cfg.InstanceUID || stored.BootID == r.cfg.BootID || stored.FencedBy != "" {
		return nil
	}
	r.mu.Lock()
	r.copied = true
	r.mu.Unlock()
	if stored.Contested {
		return nil
	}
	stored.Contested = true
	_, err := r.putHeartbeat(ctx, stored, rev)
	if fault.Is(err, fault.Conflict) {
		return nil // the next try sees what it is now
	}
	return err
}
