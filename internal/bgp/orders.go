// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"net"
	"sync"

	"github.com/ocicat-net/ocicat/internal/bgp/message"
)

// orders is what others leave for a peer's goroutine: one slot of each kind,
// so that nobody ever waits for it.
type orders struct {
	mu       sync.Mutex
	wake     chan struct{} // capacity 1
	config   *peerConfig
	accepted *net.TCPConn
	verified bool
	end      *farewell
	closed   bool
}

// farewell takes a peer down for good.
type farewell struct {
	notification *message.Notification
	reason       string
}

// leave changes the slots under their lock and wakes the peer.
func (o *orders) leave(change func(o *orders)) {
	o.mu.Lock()
	change(o)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// leaveAccepted leaves a connection the peer made; the newer of two counts.
func (o *orders) leaveAccepted(tcp *net.TCPConn) {
	o.leave(func(o *orders) {
		switch {
		case o.closed:
			_ = tcp.Close()
			return
		case o.accepted != nil:
			_ = o.accepted.Close()
		}
		o.accepted = tcp
	})
}

// take empties the slots; that of the accepted connection only if it can be
// used.
func (o *orders) take(connections bool) (config *peerConfig, accepted *net.TCPConn, verified bool, end *farewell) {
	o.mu.Lock()
	defer o.mu.Unlock()
	config, verified, end = o.config, o.verified, o.end
	o.config, o.verified, o.end = nil, false, nil
	if connections {
		accepted, o.accepted = o.accepted, nil
	}
	return config, accepted, verified, end
}

// close says that nobody will take anything any more.
func (o *orders) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.accepted != nil {
		_ = o.accepted.Close()
		o.accepted = nil
	}
}
