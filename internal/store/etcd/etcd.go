// SPDX-License-Identifier: Apache-2.0

// Package etcd is the datastore in etcd v3, with the keys of etcdpath. It
// compares and swaps, and says of every failed write whether it may have
// happened; what values mean it does not know.
//
// Requests fail at once while there is no connection instead of waiting for
// one, and a watch ends with the connection it runs on: callers have their own
// way to wait and to list again, and an outage nobody sees cannot be reported.
package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/localconn"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcdpath"
)

// Config says where etcd is and how long to wait for it.
type Config struct {
	// Endpoints are URLs, "https://192.0.2.1:2379", "http://192.0.2.1:2379" or
	// "unix:///run/etcd.sock"; https for all of them or for none.
	Endpoints []string
	// Credentials say who we are and whom we trust; default nobody.
	Credentials Credentials
	// Timeout bounds each request; default 5 s.
	Timeout time.Duration
	// Log gets what no caller sees: stored keys nobody can read. Default none.
	Log *slog.Logger
}

// Times at which a silent peer is given up. Within 7 s the kernel ends a
// connection over which nothing comes back (first probe after tcpIdle, then
// every tcpInterval). A peer that is connected but frozen is found by watches,
// see pulse; gRPC's own ping, which closes the connection, comes within 15 s:
// 10 s is the shortest gRPC allows for the first step.
const (
	tcpIdle     = 3 * time.Second
	tcpInterval = 2 * time.Second
	tcpProbes   = 2
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// maxSend is the largest request in bytes: a value at its limit, and room.
const maxSend = 2 << 20

// page is how many objects one request of a list reads.
const page = 500

// Store is a datastore in etcd. Make one with New; it is safe for concurrent
// use.
type Store struct {
	client  *clientv3.Client
	kv      clientv3.KV
	watch   pb.WatchClient
	timeout time.Duration
	log     *slog.Logger
	silent  silences
	signs   *signs
	conns   *connections
}

// connections are those to etcd.
type connections struct{ localconn.Conns }

// AddressGone gives up connections from an address this machine has no more.
func (s *Store) AddressGone(local netip.Addr) { s.conns.Gone(local) }

var _ store.Store = (*Store)(nil)

// New returns a store on etcd. It does not wait for a connection: it fails,
// as Invalid, only where cfg cannot be used.
func New(cfg Config) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	conns := &connections{}
	options := []grpc.DialOption{
		grpc.WithContextDialer(conns.dial),
		grpc.WithStatsHandler(sentHandler{}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(maxSend)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialKeepAliveTime:    pingAfter,
		DialKeepAliveTimeout: pingTimeout,
		MaxUnaryRetries:      1, // a write that is repeated unseen would conflict with itself
		Logger:               zap.NewNop(),
		DialOptions:          append(options, cfg.secured()...),
	})
	if err != nil {
		return nil, fault.New(fault.Invalid, "etcd %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	conn := client.ActiveConnection()
	return &Store{
		client:  client,
		kv:      clientv3.NewKVFromKVClient(pb.NewKVClient(conn), nil),
		watch:   pb.NewWatchClient(conn),
		timeout: cfg.Timeout,
		log:     cfg.Log,
		conns:   conns,
		signs:   newSigns(),
	}, nil
}

// secured are the options that make connections private and say who we are.
func (c Config) secured() []grpc.DialOption {
	var options []grpc.DialOption
	if c.secure() {
		options = append(options, grpc.WithTransportCredentials(transport{c.Credentials}))
	}
	if c.Credentials.Username != "" {
		l := &login{credentials: c.Credentials}
		options = append(options, grpc.WithChainUnaryInterceptor(l.unary), grpc.WithChainStreamInterceptor(l.stream))
	}
	return options
}

// secure says whether the endpoints are https.
func (c Config) secure() bool { return strings.HasPrefix(c.Endpoints[0], "https://") }

func (c Config) validate() error {
	if len(c.Endpoints) == 0 {
		return fault.Hint(fault.New(fault.Invalid, "etcd endpoints: none given"), "give at least one, as http://192.0.2.1:2379")
	}
	for _, endpoint := range c.Endpoints {
		if strings.HasPrefix(endpoint, "https://") != c.secure() {
			return fault.Hint(fault.New(fault.Invalid, "etcd endpoints: some are https:// and some are not"), "use https:// for all of them")
		}
		u, err := url.Parse(endpoint)
		switch {
		case err != nil:
		case (u.Scheme == "http" || u.Scheme == "https") && u.User == nil && u.Port() != "" && (u.Path == "" || u.Path == "/"):
			continue
		case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
			continue
		}
		return fault.Hint(fault.New(fault.Invalid, "etcd endpoint %q: not a URL of etcd", withoutUser(endpoint)),
			"use https://ADDRESS:PORT, http://ADDRESS:PORT or unix:///PATH")
	}
	return c.Credentials.validate(c.secure())
}

// withoutUser is an endpoint without the password somebody put into it.
func withoutUser(endpoint string) string {
	if at := strings.LastIndex(endpoint, "@"); at >= 0 {
		return "…" + endpoint[at:]
	}
	return endpoint
}

// dial connects and remembers the connection.
func (c *connections) dial(ctx context.Context, address string) (net.Conn, error) {
	d := dialer()
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return d.DialContext(ctx, "unix", "/"+strings.TrimLeft(path, "/"))
	}
	return c.Dial(ctx, d, "tcp", address)
}

// Get reads one object.
func (s *Store) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	if err := key.Validate(); err != nil {
		return store.Entry{}, err
	}
	what := "get " + key.String()
	ctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.kv.Get(ctx, etcdpath.Of(key))
	if err != nil {
		return store.Entry{}, readFault(ctx, what, err)
	}
	if len(resp.Kvs) == 0 {
		return store.Entry{}, fault.New(fault.NotFound, "%s: not found", what)
	}
	return store.Entry{Key: key, Value: resp.Kvs[0].Value, Revision: store.Revision(resp.Kvs[0].ModRevision)}, nil
}

// List reads the objects of a kind whose names start with prefix. It may take
// several requests, each with its own timeout, all of one revision. The first
// list after a watch that ended for silence fails at once: asking again would
// only tell the same later.
func (s *Store) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	if err := store.CheckList(kind, prefix); err != nil {
		return nil, 0, err
	}
	if silence := s.silent.take(kind, prefix); silence > 0 {
		return nil, 0, fault.New(fault.Unavailable, "list %s: no answer for %s", kind, silence.Round(100*time.Millisecond))
	}
	var (
		entries []store.Entry
		start   = etcdpath.Scope(kind, prefix)
		end     = clientv3.GetPrefixRangeEnd(start)
		rev     int64
	)
	for more := true; more; {
		resp, err := s.page(ctx, start, end, rev)
		if err != nil {
			return nil, 0, readFault(ctx, "list "+string(kind), err)
		}
		for _, kv := range resp.Kvs {
			start = string(kv.Key) + "\x00"
			key, ok := etcdpath.Parse(kind, string(kv.Key))
			if !ok {
				s.log.Debug("stored key skipped", "kind", string(kind), "key", string(kv.Key))
				continue
			}
			if strings.HasPrefix(key.Name, prefix) {
				entries = append(entries, store.Entry{Key: key, Value: kv.Value, Revision: store.Revision(kv.ModRevision)})
			}
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		more = resp.More
	}
	slices.SortFunc(entries, func(a, b store.Entry) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	return entries, store.Revision(rev), nil
}

func (s *Store) page(ctx context.Context, start, end string, rev int64) (*clientv3.GetResponse, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.kv.Get(ctx, start, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(rev))
}

// Put writes an object if its revision still is prev.
func (s *Store) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	if err := store.CheckPut(key, value); err != nil {
		return 0, err
	}
	resp, err := s.swap(ctx, "put "+key.String(), etcdpath.Of(key), prev, clientv3.OpPut(etcdpath.Of(key), string(value)))
	if err != nil {
		return 0, err
	}
	return store.Revision(resp.Header.Revision), nil
}

// Delete removes an object if its revision still is prev.
func (s *Store) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	if err := key.Validate(); err != nil {
		return err
	}
	what := "delete " + key.String()
	resp, err := s.swap(ctx, what, etcdpath.Of(key), prev, clientv3.OpDelete(etcdpath.Of(key)))
	if err != nil {
		return err
	}
	if resp.Responses[0].GetResponseDeleteRange().Deleted == 0 {
		return fault.New(fault.NotFound, "%s: not found", what)
	}
	return nil
}

// swap carries out op if the object's revision still is prev.
func (s *Store) swap(ctx context.Context, what, path string, prev store.Revision, op clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	ctx, note := withSent(ctx)
	txn := s.kv.Txn(ctx)
	if prev != store.AnyRevision {
		if prev > math.MaxInt64 {
			return nil, fault.New(fault.Conflict, "%s: no object has revision %d", what, prev)
		}
		txn = txn.If(clientv3.Compare(clientv3.ModRevision(path), "=", int64(prev)))
	}
	resp, err := txn.Then(op).Else(clientv3.OpGet(path, clientv3.WithKeysOnly())).Commit()
	if err != nil {
		return nil, writeFault(ctx, what, err, note)
	}
	if resp.Succeeded {
		return resp, nil
	}
	found := resp.Responses[0].GetResponseRange().Kvs
	switch {
	case len(found) > 0:
		return nil, fault.New(fault.Conflict, "%s: at revision %d, not %d", what, found[0].ModRevision, prev)
	case op.IsDelete():
		return nil, fault.New(fault.NotFound, "%s: not found", what)
	}
	return nil, fault.New(fault.Conflict, "%s: does not exist, wanted revision %d", what, prev)
}

// Close ends all watches and closes the connections.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}

// bound limits a request in time.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout)
}
