// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	grpccredentials "google.golang.org/grpc/credentials"
)

// dialer connects so that the kernel notices a peer that fell silent, also
// with data in flight. gRPC sets the limit for those only on connections that
// are a plain *net.TCPConn, and ours are remembered ones.
func dialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: tcpIdle, Interval: tcpInterval, Count: tcpProbes,
		},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			var inner error
			err := c.Control(func(fd uintptr) {
				inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(pingTimeout.Milliseconds()))
			})
			return errors.Join(err, inner)
		},
	}
}

// transport secures connections with files read for each of them: a
// certificate that was replaced counts from the next connection on.
type transport struct{ credentials Credentials }

// ClientHandshake secures one connection to authority, "HOST:PORT".
func (t transport) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, grpccredentials.AuthInfo, error) {
	cfg, err := t.credentials.tlsConfig()
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return grpccredentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake is never called: we are a client.
func (t transport) ServerHandshake(conn net.Conn) (net.Conn, grpccredentials.AuthInfo, error) {
	return conn, nil, net.ErrClosed
}

// Info says that connections are secured by TLS.
func (t transport) Info() grpccredentials.ProtocolInfo {
	return grpccredentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns t: it holds nothing that changes.
func (t transport) Clone() grpccredentials.TransportCredentials { return t }

// OverrideServerName does nothing: the name is the endpoint's.
func (t transport) OverrideServerName(string) error { return nil }

// handshakeHints are the remedies of failed handshakes by what their error
// says.
var handshakeHints = []struct{ words, hint string }{
	{"signed by unknown authority", "etcd's certificate comes from another authority: name its own with ETCD_CA_CERT_FILE"},
	{"certificate is valid for", "use a name or address in ETCD_ENDPOINTS that etcd's certificate holds, or give etcd one with this name"},
	{"doesn't contain any IP SANs", "use a name in ETCD_ENDPOINTS that etcd's certificate holds, or give etcd one with this address"},
	{"not valid for any names", "give etcd a certificate with the name of its endpoint"},
	{"certificate has expired or is not yet valid", "renew etcd's certificate, and compare the clocks of both machines"},
	{"tls: certificate required", "etcd wants a certificate: set ETCD_CERT_FILE and ETCD_KEY_FILE"},
	{"remote error: tls", "etcd refuses our certificate: renew the one ETCD_CERT_FILE names, from the authority etcd trusts"},
	{"first record does not look like a TLS handshake", "etcd speaks without TLS there: write http:// in ETCD_ENDPOINTS, or give etcd a certificate"},
	{"read certificate for etcd", "ETCD_CERT_FILE and ETCD_KEY_FILE name a certificate and its key in PEM format"},
	{"read authorities of etcd", "correct ETCD_CA_CERT_FILE"},
}

// handshakeHint is the remedy of a failed handshake, "" for other failures.
func handshakeHint(text string) string {
	for _, h := range handshakeHints {
		if strings.Contains(text, h.words) {
			return h.hint
		}
	}
	return ""
}
