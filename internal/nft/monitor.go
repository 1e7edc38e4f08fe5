// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nfgenSize is the header of netfilter's messages: family, version, resource.
const nfgenSize = 4

// Monitor calls each whenever the table may have changed, also by us, and
// once when it begins to listen, until ctx ends. each must not block.
func (h *Handle) Monitor(ctx context.Context, table string, each func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(h.netns.Fd()), Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return wrap("listen to nftables", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	each()
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			each() // events were lost, ours may be among them
		case err != nil:
			return errors.Join(wrap("listen to nftables", err), conn.Close())
		}
		for _, m := range messages {
			if concerns(m, table) {
				each()
				break
			}
		}
	}
}

// concerns reports whether a notification is about table: attribute 1 is the
// table's name in messages about tables, chains, rules and all they hold.
func concerns(m netlink.Message, table string) bool {
	if len(m.Data) < nfgenSize || m.Data[0] != unix.NFPROTO_INET || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
		return false
	}
	attrs, err := netlink.NewAttributeDecoder(m.Data[nfgenSize:])
	if err != nil {
		return false
	}
	for attrs.Next() {
		if attrs.Type() == unix.NFTA_TABLE_NAME {
			return attrs.String() == table
		}
	}
	return false
}
