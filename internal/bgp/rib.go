// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
	"github.com/ocicat-net/ocicat/internal/bgp/session"
	"github.com/ocicat-net/ocicat/internal/bgp/table"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// warnAt is the part of a peer's prefix limit from which the log warns.
func warnAt(limit int) int { return limit - limit/5 }

// prefixLimit is what p may announce before its session is ended.
func prefixLimit(p speaker.Peer) int {
	if p.PrefixLimit == 0 {
		return speaker.DefaultPrefixLimit
	}
	return p.PrefixLimit
}

// rib is the table of all peers behind one lock. The lock is never held while
// anything waits: what sessions send is taken from cursors, without it.
type rib struct {
	mu       sync.Mutex
	local    table.Local
	table    *table.Table
	groups   *table.Groups
	sessions map[netip.Addr]ribSession // the established ones, by peer
	ads      []speaker.Advertisement
}

// ribSession is one established session.
type ribSession struct {
	info   table.PeerInfo
	export table.Export
}

func newRIB() *rib {
	t := table.New(table.Local{})
	return &rib{table: t, groups: table.NewGroups(t), sessions: map[netip.Addr]ribSession{}}
}

// configure takes over what we are and originate; it says whether a best path
// changed by it.
func (r *rib) configure(cfg speaker.Config) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var prefixes []netip.Prefix
	if local := newLocal(cfg); local.AS != r.local.AS || local.RouterID != r.local.RouterID || !slices.Equal(local.Addrs, r.local.Addrs) {
		r.local = local
		prefixes = r.table.SetLocal(local)
	}
	if !slices.Equal(cfg.Advertise, r.ads) {
		r.ads = slices.Clone(cfg.Advertise)
		prefixes = append(prefixes, r.table.Originate(r.ads)...)
	}
	changed = r.apply(prefixes)
	if cfg.Complete {
		r.groups.Complete()
	}
	return changed
}

// newLocal is what the table must know of us.
func newLocal(cfg speaker.Config) table.Local {
	local := table.Local{AS: cfg.AS, RouterID: cfg.RouterID}
	if a := cfg.Listen.Addr(); a.IsValid() && !a.IsUnspecified() {
		local.Addrs = append(local.Addrs, a)
	}
	for _, p := range cfg.Peers {
		if p.LocalAddr.IsValid() {
			local.Addrs = append(local.Addrs, p.LocalAddr)
		}
	}
	slices.SortFunc(local.Addrs, netip.Addr.Compare)
	local.Addrs = slices.Compact(local.Addrs)
	return local
}

// apply passes changed best paths on to all sessions; it says whether there
// were any.
func (r *rib) apply(prefixes []netip.Prefix) bool {
	r.groups.Apply(prefixes)
	return len(prefixes) > 0
}

// up enters a session and returns the cursor of what it has to send. Both
// happen in one step under the lock, so no change can fall between what the
// cursor begins with and what it goes on with.
func (r *rib) up(p speaker.Peer, local netip.Addr, params session.Params) *table.Cursor {
	r.mu.Lock()
	defer r.mu.Unlock()
	info := table.PeerInfo{
		Addr: p.Addr, Name: p.Name,
		RouterID: params.RouterID, AS: params.AS, Internal: params.Message.Internal,
	}
	export := table.Export{Internal: info.Internal, AS4: params.Message.AS4, AS: r.local.AS, LocalAddr: local}
	r.sessions[p.Addr] = ribSession{info: info, export: export}
	return r.groups.Join(export, p.Addr)
}

// resume compacts what a session that is far behind has to send. It runs in
// the session's writer; most of the work is done before the lock is taken.
func (r *rib) resume(addr netip.Addr, behind *table.Cursor) error {
	r.mu.Lock()
	session, up := r.sessions[addr]
	r.mu.Unlock()
	if !up {
		return nil
	}
	backlog := table.NewBacklog(session.export)
	if err := behind.Skip(backlog); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.groups.Resume(session.export, behind, backlog)
}

// down ends a session; its routes are kept as stale or dropped. It says
// whether a best path changed.
func (r *rib) down(addr netip.Addr, keepStale bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if session, up := r.sessions[addr]; up {
		delete(r.sessions, addr)
		r.groups.Leave(session.export, addr)
	}
	if keepStale {
		return r.apply(r.table.MarkStale(addr))
	}
	return r.apply(r.table.DropPeer(addr))
}

// dropStale removes the routes of a peer that are still stale.
func (r *rib) dropStale(addr netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.apply(r.table.SweepStale(addr))
}

// learn takes in what a peer announces, up to limit prefixes. It says how many
// there are now and whether a best path changed, or why the session must end.
func (r *rib) learn(addr netip.Addr, u *message.Update, limit int) (received int, changed bool, refusal *message.Notification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	session, up := r.sessions[addr]
	if !up {
		return 0, false, nil
	}
	changed = r.apply(r.table.Update(session.info, u))
	received = r.table.Received(addr)
	if received > limit {
		return received, changed, &message.Notification{
			Code: message.Cease, Subcode: message.PrefixLimit,
			Detail: fmt.Sprintf("more than %d prefixes", limit),
		}
	}
	return received, changed, nil
}

// refresh sends a peer all routes again.
func (r *rib) refresh(addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if session, up := r.sessions[addr]; up {
		r.groups.Refresh(session.export, addr)
	}
}

// counts is how many prefixes came from a peer and went to it.
func (r *rib) counts(addr netip.Addr) (received, sent int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if session, up := r.sessions[addr]; up {
		sent = r.groups.Sent(session.export, addr)
	}
	return r.table.Received(addr), sent
}

func (r *rib) learned() cluster.Learned {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.Snapshot()
}

func (r *rib) paths() []speaker.Path {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.Dump()
}

func (r *rib) pathsTo(prefix netip.Prefix) []speaker.Path {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.Paths(prefix)
}
