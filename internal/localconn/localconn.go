// SPDX-License-Identifier: Apache-2.0

// Package localconn gives up connections whose local address is gone. The
// kernel keeps such a connection and sends into it until nothing has come back
// for long: whoever waits for an answer waits for nothing.
package localconn

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// Conns are the open connections of one client. The zero value has none; it is
// safe for concurrent use.
type Conns struct {
	mu   sync.Mutex
	open map[*conn]netip.Addr
}

// conn is one of them.
type conn struct {
	net.Conn
	of *Conns
}

// Close ends the connection.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// Dial connects as d does and remembers the connection until it is closed.
func (c *Conns) Dial(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	made, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tcp, ok := made.LocalAddr().(*net.TCPAddr)
	if !ok {
		return made, nil
	}
	kept := &conn{made, c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[*conn]netip.Addr{}
	}
	c.open[kept] = tcp.AddrPort().Addr().Unmap()
	return kept, nil
}

// Gone closes the connections from a local address that this machine has no
// more. Whoever uses one gets an error at once, and connects anew.
func (c *Conns) Gone(local netip.Addr) {
	c.mu.Lock()
	var gone []*conn
	for kept, addr := range c.open {
		if addr == local {
			gone = append(gone, kept)
		}
	}
	c.mu.Unlock()
	for _, kept := range gone {
		_ = kept.Close()
	}
}
