// SPDX-License-Identifier: Apache-2.0

// Package agent wires a node's agent together: which facts feed the Snapshot,
// what is converged when, and the doors it opens. Deciding is core's, doing is
// the edges'; here is the one list of tasks and the calls of the CNI.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/bgp"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniserver"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/feed"
	"github.com/ocicat-net/ocicat/internal/health"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/httpd"
	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/journal"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/metrics"
	"github.com/ocicat-net/ocicat/internal/nft"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/reconcile"
	"github.com/ocicat-net/ocicat/internal/seat"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/uplink"
)

// Sections of the loop.
const (
	sectionKernel  = "kernel"
	sectionSpeaker = "speaker"
	sectionFilter  = "filter"
	sectionStatus  = "status"
)

// Times. undoTimeout bounds the undoing of a failed ADD, whose own context has
// ended; startGrace is how long an ADD waits for the start's first contact
// with the datastore; relist is how often the datastore is read whole although its watches
// work.
const (
	undoTimeout = 5 * time.Second
	startGrace  = 2 * time.Second
	servingPoll = 100 * time.Millisecond
	relist      = 5 * time.Minute
	defaultMTU  = 1500
)

// Config is what an agent needs to run.
type Config struct {
	Node     cluster.NodeName
	RunDir   string // /run/ocicat: sockets, journal, restart state, lease
	StateDir string // /var/lib/ocicat: instance, local copy of the datastore
	Store    store.Store
	Log      *slog.Logger
	// Uplink chooses the node's address.
	Uplink uplink.Policy
	// AS is the node's own AS number, nil for the cluster's.
	AS *v3.ASNumber
	// RouterID is the BGP identifier; zero for the node's address.
	RouterID netip.Addr
	// DefaultPools are the pools to create when none exists, given the node's
	// own networks.
	DefaultPools func(networks []netip.Prefix) ([]*v3.IPPool, error)
	// AppliedEnv are the variables of the pools this agent started with, for
	// the record.
	AppliedEnv map[string]string
	// Environment changes pools as those variables changed; nil for never.
	Environment Environment
	// Settings are the agent's own, where the cluster's OcicatConfiguration
	// says nothing.
	Settings cluster.Settings
	// Times are those of the reserve's lease and of reclaim; zero for the
	// default.
	Times ipam.Times
	// Passwords are the TCP MD5 keys of BGPPeers by name.
	Passwords map[string]string
	// Metrics is where metrics are served; invalid for nowhere.
	Metrics netip.AddrPort
	// Health is where Kubernetes' probes are answered; invalid for nowhere.
	Health netip.AddrPort
	// ProcSys is where settings are written, "" for /proc/sys; see
	// kernel.Handle.WriteSettingsBelow.
	ProcSys string
	// Kubernetes is the cluster this node is one of; nil without.
	Kubernetes Kubernetes
	// Admin is where people reach the agent by port-forward, and Guests who may;
	// invalid for nowhere. It needs Kubernetes, which knows whose tokens are.
	Admin  netip.AddrPort
	Guests admin.Guests
	// Install says what is put on the host of the CNI plugin; nil for nothing.
	Install *install.Config
	// Problems found before the agent started, as ignored variables.
	Problems []problem.Problem
}

// Agent is one node's agent. Make one with New, then Run it.
type Agent struct {
	memory  memory
	cfg     Config
	log     *slog.Logger
	id      identity
	started time.Time

	feed       *feed.Feed
	kernel     *kernel.Handle
	filter     *filter
	speaker    *bgp.Speaker
	reserve    *ipam.Reserve
	forPools   atomic.Pointer[forPools] // as last looked at
	journal    *journal.Journal
	seat       *seat.Seat
	loop       *reconcile.Loop
	resources  *resources
	undertaker *undertaker
	publisher  *publisher
	door       *cniserver.Server // for the plugin
	counts     *metrics.Counts
	store      *metrics.Store
	remote     remote             // the datastore, where it is reached over connections; else nil
	lock       lockable           // the datastore, where it can be locked; else nil
	locked     atomic.Bool        // the datastore
	scrapes    *httpd.Server      // nil where metrics are off
	installer  *install.Installer // nil where nothing is installed
	health     *httpd.Server      // nil where probes are off
	beats      *health.Beats      // with health
	start      startGate

	touched      touchedDevices
	hint         kernelHint
	borrowed     borrowed
	endpoints    locks[cluster.EndpointID] // held while one is attached or detached
	hostEnds     locks[string]             // the same, of the endpoints that share a host end
	burying      sync.Mutex                // held while tombstones are served
	blocks       sync.Mutex                // held while the own blocks are set
	blocksTold   bool                      // IPAM has told them
	last         atomic.Pointer[converged]
	wanted       atomic.Pointer[host.State]        // of the pass under way, or the last
	news         atomic.Bool                       // the speaker learned something
	peerProblems atomic.Pointer[[]problem.Problem] // of the last speaker section
	verify       sync.Once
	verified     chan struct{} // closed after the first pass with full knowledge
	uplink       chosen
	served       atomic.Bool // Status was without an error once since the boot
	hadPools     bool        // the registration saw a pool, stored or in the local copy; its goroutine's alone
	know         sync.Once
	known        chan struct{} // closed once this node and its pools are known
}

// New opens what an agent stands on: its directories, journal and kernel. It
// fails rather than start half, and where another agent works.
func New(cfg Config) (*Agent, error) {
	place, err := seat.Take(cfg.Log)
	if err != nil {
		return nil, err
	}
	a, err := open(cfg)
	if err != nil {
		place.Leave()
		return nil, err
	}
	a.seat = place
	return a, nil
}

func open(cfg Config) (*Agent, error) {
	if err := errors.Join(os.MkdirAll(cfg.RunDir, 0o700), os.MkdirAll(cfg.StateDir, 0o700)); err != nil {
		return nil, fault.New(fault.Internal, "make the agent's directories: %w", err)
	}
	if err := refuseNewer(cfg); err != nil {
		return nil, err
	}
	id, err := readIdentity(cfg.StateDir, cfg.RunDir)
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, log: cfg.Log, id: id, started: time.Now(), verified: make(chan struct{}), known: make(chan struct{}), uplink: newChosen()}
	a.measure()
	cfg.Store = a.store
	a.feed = feed.New(cfg.Node, cfg.Settings, a.factsChanged)
	if a.kernel, err = kernel.Open(); err != nil {
		return nil, err
	}
	if cfg.ProcSys != "" {
		a.kernel.WriteSettingsBelow(cfg.ProcSys)
	}
	packets, err := nft.Open()
	if err != nil {
		return nil, errors.Join(err, a.kernel.Close())
	}
	a.filter = newFilter(packets)
	a.speaker = bgp.New(bgp.Options{
		Log:      cfg.Log,
		StateDir: filepath.Join(cfg.RunDir, "gr"),
		BootID:   id.BootID,
		OnChange: func() { a.learned() },
	})
	a.undertaker = newUndertaker(a)
	a.publisher = newPublisher(a)
	a.door = cniserver.New(filepath.Join(cfg.RunDir, "cni.sock"), measured{a, a.counts}, cfg.Log)
	a.loop = reconcile.New(cfg.Log,
		reconcile.Section{Name: sectionKernel, Reconcile: a.timed(sectionKernel, a.converge), Resync: time.Minute},
		reconcile.Section{Name: sectionSpeaker, Reconcile: a.timed(sectionSpeaker, a.convergeSpeaker)},
		reconcile.Section{Name: sectionFilter, Reconcile: a.timed(sectionFilter, a.convergeFilter), Resync: time.Minute},
		reconcile.Section{Name: sectionStatus, Reconcile: a.timed(sectionStatus, a.publisher.publish), Resync: time.Minute},
	)
	if cfg.Kubernetes != nil {
		cfg.Kubernetes.OnChange(func() { a.loop.Mark(sectionStatus) })
	}
	a.resources = newResources(a)
	a.reserve = ipam.NewReserve(ipam.ReserveConfig{
		Client:      ipam.NewClient(ipam.ClientConfig{Store: cfg.Store, Pools: a.pools, NodeLabels: a.nodeLabels, Reservations: a.reservations, Borrow: true}),
		Node:        string(cfg.Node),
		InstanceUID: id.Instance,
		BootID:      id.BootID,
		Size:        cfg.Settings.Reserve,
		LeaseFile:   filepath.Join(cfg.RunDir, "lease"),
		Times:       cfg.Times,
		Log:         cfg.Log,
		OnBlocks:    a.ownBlocks,
	})
	a.probing()
	if err := errors.Join(a.openJournal(), a.installing()); err != nil {
		return nil, errors.Join(err, a.kernel.Close(), packets.Close())
	}
	return a, nil
}

// task is one part of the agent that runs until its context ends.
type task interface {
	Run(ctx context.Context) error
	String() string
}

// Run runs every task until ctx ends or one of them fails. It ends silently
// towards the peers: they keep our routes (graceful restart).
func (a *Agent) Run(ctx context.Context) error {
	if err := a.recall(); err != nil {
		return err
	}
	_ = a.convergeFilter(ctx) // before the first ADD; its section tries again and says what is wrong
	a.bury(ctx)
	tasks := []task{
		a.loop,
		a.speaker,
		a.reserve,
		a.undertaker,
		named{"resources", a.resources.run},
		named{"registration", a.register},
		named{"kernel events", a.watchKernel},
		named{"packet filter events", a.watchFilter},
		named{"tombstones", a.watchTombstones},
		named{"run directory", a.watchRunDir},
		a.door,
		admin.New(filepath.Join(a.cfg.RunDir, "admin.sock"), admin.Door{Source: a, Drainer: a, Tracer: a}, a.log),
	}
	if a.cfg.Kubernetes == nil { // there the controller does it, with rights of its own
		tasks = append(tasks, a.newCollector())
	}
	if a.lock != nil {
		tasks = append(tasks, named{"datastore lock", a.watchLock})
	}
	if a.scrapes != nil {
		tasks = append(tasks, a.scrapes)
	}
	if a.installer != nil {
		tasks = append(tasks, a.installer)
	}
	if a.health != nil {
		tasks = append(tasks, a.health, a.beats)
	}
	if k := a.cfg.Kubernetes; k != nil {
		tasks = append(tasks, k, named{"serving", a.tellServing})
		if a.cfg.Admin.IsValid() {
			tasks = append(tasks, admin.NewRemote(a.cfg.Admin, admin.Door{Source: a, Drainer: a, Tracer: a}, k, a.cfg.Guests, a.log))
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		group.Go(func() error {
			if err := t.Run(ctx); err != nil && ctx.Err() == nil {
				return fault.New(fault.KindOf(err), "%s: %w", t, err)
			}
			return nil
		})
	}
	a.log.Info("agent started", "node", a.cfg.Node, "instance", a.id.Instance, "boot", a.id.BootID)
	err := group.Wait()
	defer a.seat.Leave()
	return errors.Join(err, a.journal.Close(), a.kernel.Close(), a.filter.nft.Close())
}

// newCollector is this agent's part in giving back what nodes hold that are
// gone.
func (a *Agent) newCollector() *ipam.Collector {
	return ipam.NewCollector(ipam.CollectorConfig{
		Client: ipam.NewClient(ipam.ClientConfig{Store: a.cfg.Store, Pools: a.pools, NodeLabels: a.nodeLabels}),
		Node:   string(a.cfg.Node), Session: fmt.Sprintf("%s/%s/%d", a.id.Instance, a.id.BootID, a.started.UnixNano()),
		Times: a.cfg.Times, Log: a.log,
	})
}

// named is a task made of a function.
type named struct {
	name string
	run  func(context.Context) error
}

func (n named) Run(ctx context.Context) error { return n.run(ctx) }
func (n named) String() string                { return n.name }

// forPools is what of a snapshot decides which addresses the node may have.
type forPools struct {
	pools    []cluster.Pool
	reserved []netip.Prefix
	me       cluster.Node
	synced   bool
}

// poolsChanged says whether the node's blocks and what is held ready of them
// have to be looked at again: what happens to other nodes does not concern them.
func (a *Agent) poolsChanged(snap *cluster.Snapshot) bool {
	now := &forPools{snap.Pools, snap.Reserved, snap.Me(), snap.StoreSynced}
	before := a.forPools.Swap(now)
	return before == nil || !reflect.DeepEqual(before, now)
}

// factsChanged starts the passes a change concerns. An endpoint's own ADD or
// DEL does its work itself.
func (a *Agent) factsChanged(part feed.Part) {
	if a.reserve == nil {
		return // still being made
	}
	if part&(feed.Resources|feed.Blocks) != 0 || part&feed.Endpoints != 0 && a.last.Load().broken() {
		a.loop.Mark(sectionKernel)
	}
	if part&(feed.Resources|feed.Blocks|feed.Host) != 0 {
		a.loop.Mark(sectionSpeaker)
	}
	if part&feed.Resources != 0 {
		a.loop.Mark(sectionFilter)
		snap := a.feed.Snapshot()
		a.reserve.SetSize(snap.Settings.Reserve)
		if a.poolsChanged(snap) {
			a.reserve.Refresh()
		}
		if snap.StoreSynced && snap.Me().Name != "" && len(snap.Pools) > 0 {
			a.know.Do(func() { close(a.known) })
		}
	}
	if part&(feed.Endpoints|feed.Blocks) != 0 && a.borrowedChanged() {
		a.loop.Mark(sectionSpeaker)
	}
	if part == feed.Endpoints {
		a.publisher.podsChanged()
		return
	}
	a.loop.Mark(sectionStatus)
}
