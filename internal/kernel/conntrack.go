// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// What linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h say of connection
// tracking and x/sys/unix does not.
const (
	ctGet    = 1<<8 | 1 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
	ctDelete = 1<<8 | 2 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25

	ctaTupleIP = 1
	ctaIPv4Src = 1
	ctaIPv4Dst = 2

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	filterIPSrc         = 1 << 0
)

// connectionCount is the number of connections the namespace tracks.
const connectionCount = "net/netfilter/nf_conntrack_count"

// FlushConnections makes the kernel forget every tracked IPv4 connection from
// or to one of addrs, so that the next owner of an address does not inherit
// them. Unsupported where the kernel tracks none.
func (h *Handle) FlushConnections(ctx context.Context, addrs ...netip.Addr) error {
	// Listing walks the whole hash table, 262,144 buckets, however few
	// connections are in it: 5 ms of CPU that most nodes need not spend.
	count, err := h.Sysctl(connectionCount)
	if len(addrs) == 0 || (err == nil && count == "0") {
		return nil
	}
	tracked, _ := strconv.Atoi(count) // 0 where it is not known
	s, err := h.openSocket(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer s.close()
	var del batch
	for _, list := range connectionLists(addrs, tracked) {
		found, err := s.connections(ctx, list, addrs)
		if err != nil {
			return err
		}
		for _, c := range found {
			c.appendDelete(&del)
		}
	}
	errs, err := s.send(ctx, &del, nil)
	if err != nil {
		return err
	}
	for i := range errs {
		if isErrno(errs[i], unix.ENOENT) { // it ended meanwhile, or was in both lists
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// manyConnections is from how many on reading all of them costs more than
// walking the table twice.
const manyConnections = 10_000

// connectionLists are the requests that list what may concern addrs. Of many
// for one address the kernel filters (since 5.8; an older one lists all): an
// address that takes part is the source in one direction or the other, unless
// translated into something that is. Each direction is a walk of its own.
func connectionLists(addrs []netip.Addr, tracked int) []*batch {
	all := func() *batch {
		b := &batch{}
		b.add(ctGet, 0, "list connections", nfgen())
		return b
	}
	if len(addrs) > 1 || tracked < manyConnections {
		return []*batch{all()}
	}
	var lists []*batch
	for tuple, flags := range map[uint16]uint16{ctaTupleOrig: ctaFilterOrigFlags, ctaTupleReply: ctaFilterReplyFlags} {
		b := all()
		b.nest(tuple, func() {
			b.nest(ctaTupleIP, func() { b.bytes(ctaIPv4Src, addrs[0].AsSlice()) })
		})
		b.nest(ctaFilter, func() { b.u32(flags, filterIPSrc) })
		lists = append(lists, b)
	}
	return lists
}

// nfgen is struct nfgenmsg for IPv4.
func nfgen() []byte { return []byte{unix.AF_INET, 0, 0, 0} }

// connection is what identifies a tracked connection, in the kernel's bytes.
type connection struct{ orig, id, zone []byte }

// connections returns those listed that concern one of addrs.
func (s *socket) connections(ctx context.Context, list *batch, addrs []netip.Addr) ([]connection, error) {
	var found []connection
	err := s.dump(ctx, list, func() { found = nil }, func(r reply) {
		if len(r.payload) < len(nfgen()) {
			return
		}
		attrs := r.payload[len(nfgen()):]
		orig, back := find(attrs, ctaTupleOrig), find(attrs, ctaTupleReply)
		if concerns(orig, addrs) || concerns(back, addrs) {
			found = append(found, connection{slices.Clone(orig), slices.Clone(find(attrs, ctaID)), slices.Clone(find(attrs, ctaZone))})
		}
	})
	return found, err
}

// concerns reports whether one end of a tuple is in addrs.
func concerns(tuple []byte, addrs []netip.Addr) bool {
	ip := find(tuple, ctaTupleIP)
	return slices.Contains(addrs, addr(find(ip, ctaIPv4Src))) || slices.Contains(addrs, addr(find(ip, ctaIPv4Dst)))
}

// appendDelete adds a message that deletes c and not one that took its place.
func (c connection) appendDelete(b *batch) {
	b.add(ctDelete, 0, "delete connection", nfgen())
	b.nest(ctaTupleOrig, func() { b.raw(c.orig) })
	if c.zone != nil {
		b.bytes(ctaZone, c.zone)
	}
	b.bytes(ctaID, c.id)
}
