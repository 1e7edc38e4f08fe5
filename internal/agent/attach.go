// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/journal"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// Add attaches a pod: the address from the reserve, the intent into the
// journal, the kernel's state, the answer. A repeated Add, also one whose
// first try was cut off anywhere, goes the same way and ends the same. One
// whose caller is gone before the answer is undone.
func (a *Agent) Add(ctx context.Context, req cniwire.AddRequest) (cniwire.AddResult, error) {
	if err := a.serving(); err != nil {
		return cniwire.AddResult{}, err
	}
	if err := a.unlocked(req); err != nil {
		return cniwire.AddResult{}, err
	}
	a.bury(ctx)
	a.awaitPools(ctx)
	id := idOf(req)
	req, err := a.annotated(ctx, req)
	if err != nil {
		return cniwire.AddResult{}, err
	}
	defer a.endpoints.lock(id)()
	if !a.undertaker.await(ctx, id) {
		return cniwire.AddResult{}, fault.Hint(fault.New(fault.Unavailable, "attach %s: its DEL is not finished", id), "The runtime tries again by itself.")
	}
	att, known := a.journal.Get(id)
	if !known {
		ep, err := a.endpointFor(id, req)
		if err != nil {
			return cniwire.AddResult{}, err
		}
		att.Endpoint = ep
	}
	defer a.hostEnds.lock(att.Endpoint.HostIf)()
	if !known {
		if att, err = a.intend(ctx, att.Endpoint, req); err != nil {
			return cniwire.AddResult{}, err
		}
	}
	result, err := a.plumb(ctx, att, req)
	if err == nil && att.State == journal.Intent {
		err = a.reserve.Confirm(att.Endpoint.Addr)
	}
	if err == nil && ctx.Err() != nil {
		err = fault.New(fault.Unavailable, "attach %s: nobody takes the answer: %w", podName(att.Endpoint), ctx.Err())
	}
	if err != nil {
		if att.State == journal.Intent {
			a.abandon(ctx, att)
		}
		return cniwire.AddResult{}, err
	}
	return result, nil
}

func idOf(req cniwire.AddRequest) cluster.EndpointID { return cluster.EndpointID(req.ID) }

// intend takes an address and writes down what is about to be made.
func (a *Agent) intend(ctx context.Context, ep cluster.Endpoint, req cniwire.AddRequest) (journal.Attachment, error) {
	if err := a.onlyInterface(ctx, ep); err != nil {
		return journal.Attachment{}, err
	}
	if err := a.displace(ctx, ep); err != nil {
		return journal.Attachment{}, err
	}
	handle := names.Handle(req.Network, ep.ID.ContainerID)
	addr, err := a.reserve.Take(ctx, ipam.Claim{Handle: handle, Attrs: a.attributes(req), Want: wantedAddr(req), Pools: req.Pools})
	if err != nil {
		return journal.Attachment{}, fault.New(fault.KindOf(err), "assign address for %s: %w", podName(ep), err)
	}
	ep.Addr = addr
	att := journal.Attachment{Endpoint: ep, State: journal.Intent, Network: req.Network, Handle: handle, NetNSPath: req.NetNSPath, PermGateway: a.feed.Snapshot().Settings.PermGateway, PodUID: req.Pod.UID}
	if err := a.journal.Put(att); err != nil {
		a.reserve.Release(handle, ep.Addr, func() {})
		return journal.Attachment{}, err
	}
	return att, nil
}

// endpointFor is the endpoint a request asks for, its address still open.
func (a *Agent) endpointFor(id cluster.EndpointID, req cniwire.AddRequest) (cluster.Endpoint, error) {
	ep := cluster.Endpoint{ID: id, Namespace: req.Pod.Namespace, Pod: req.Pod.Name, MTU: req.MTU}
	snap := a.feed.Snapshot()
	if req.NodeName != "" && req.NodeName != string(snap.Self) {
		return ep, fault.Hint(fault.New(fault.Invalid, "the CNI configuration is for node %q, this is %q", req.NodeName, snap.Self), "Remove nodename from the conflist, or set it to this node's name.")
	}
	if ep.Pod != "" {
		ep.HostIf = names.HostInterface(snap.Settings.InterfacePrefix, ep.Namespace, ep.Pod)
	} else {
		ep.HostIf = names.ContainerInterface(snap.Settings.InterfacePrefix, id.ContainerID)
	}
	if ep.MTU == 0 {
		ep.MTU = uplinkMTU(snap.Host)
	}
	mac, err := host.ParseMAC(req.MAC)
	if err != nil {
		return ep, fault.Hint(fault.New(fault.Invalid, "requested %w", err), "Ask for a unicast MAC of six bytes, or for none.")
	}
	if mac == core.GatewayMAC {
		return ep, fault.Hint(fault.New(fault.Invalid, "requested MAC %s is the gateway's", mac), "Ask for another MAC, or for none.")
	}
	if mac == (host.MAC{}) {
		mac = kernel.RandomMAC()
	}
	ep.MAC = mac
	return ep, nil
}

// onlyInterface makes sure that the container has no other interface of ours:
// both would be named after the same pod, and have the same address, as that
// belongs to the container. One that was just detached gives it back first.
func (a *Agent) onlyInterface(ctx context.Context, ep cluster.Endpoint) error {
	for _, other := range a.journal.Find(func(att journal.Attachment) bool {
		return att.ID().ContainerID == ep.ID.ContainerID && att.ID() != ep.ID
	}) {
		id := other.ID()
		switch {
		case other.State != journal.Detached:
			return fault.Hint(fault.New(fault.Conflict, "attach %s: the container has interface %s of network %s already", ep.ID, id.IfName, other.Network),
				"A pod has one interface of Ocicat: detach that one first, or leave this network out.")
		case !a.undertaker.await(ctx, id):
			return fault.Hint(fault.New(fault.Unavailable, "attach %s: the DEL of %s is not finished", ep.ID, id.IfName), "The runtime tries again by itself.")
		}
	}
	return nil
}

// displace detaches an older container of the same pod: a runtime may start
// the next sandbox before it deletes the last.
func (a *Agent) displace(ctx context.Context, ep cluster.Endpoint) error {
	for _, old := range a.journal.Find(func(att journal.Attachment) bool {
		return att.State != journal.Detached && att.Endpoint.HostIf == ep.HostIf && att.ID() != ep.ID
	}) {
		a.log.Info("pod has a new container, detaching the old one", "pod", podName(ep), "old", old.ID(), "new", ep.ID)
		if err := a.detach(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

// plumb makes the endpoint true in the kernel and the journal say so.
func (a *Agent) plumb(ctx context.Context, att journal.Attachment, req cniwire.AddRequest) (cniwire.AddResult, error) {
	done := a.touch(att.Endpoint.HostIf)
	defer done()
	settings := a.feed.Snapshot().Settings
	a.feed.SetEndpoint(att.Endpoint)
	err := a.kernel.Attach(ctx, kernel.Attachment{
		Endpoint:    att.Endpoint,
		Want:        core.WantEndpoint(settings, att.Endpoint),
		PodNetNS:    req.NetNS,
		PermGateway: settings.PermGateway,
	})
	if err != nil {
		return cniwire.AddResult{}, fault.New(fault.KindOf(err), "attach %s: %w", podName(att.Endpoint), err)
	}
	if att.State == journal.Attached && att.Result != nil {
		return *att.Result, nil
	}
	result := resultOf(att.Endpoint)
	att.State, att.Result = journal.Attached, &result
	if err := a.journal.Put(att); err != nil {
		return cniwire.AddResult{}, err
	}
	a.tellAttached(att)
	a.log.Info("pod attached", "pod", podName(att.Endpoint), "address", att.Endpoint.Addr, "interface", att.Endpoint.HostIf, "container", short(att.ID().ContainerID))
	return result, nil
}

// abandon undoes an Add that failed: what stands of it goes, its address is
// released. What cannot be undone stays in the journal as an intent, for the
// runtime's DEL.
func (a *Agent) abandon(ctx context.Context, att journal.Attachment) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := a.detach(ctx, att); err != nil {
		a.log.Error("failed ADD not undone, left to its DEL", "pod", podName(att.Endpoint), "error", err)
	}
}

// Del detaches a pod. That nothing is attached is no error.
func (a *Agent) Del(ctx context.Context, req cniwire.DelRequest) error {
	id := cluster.EndpointID{ContainerID: req.ContainerID, IfName: req.IfName}
	if _, known := a.journal.Get(id); !known {
		a.reserve.Disown(names.Handle(req.Network, req.ContainerID))
	}
	return a.release(ctx, id)
}

func (a *Agent) release(ctx context.Context, id cluster.EndpointID) error {
	defer a.endpoints.lock(id)()
	att, ok := a.journal.Get(id)
	if !ok {
		return nil
	}
	defer a.hostEnds.lock(att.Endpoint.HostIf)()
	// A newer container of the pod may have displaced it meanwhile.
	if att, ok = a.journal.Get(id); !ok || att.State == journal.Detached {
		return nil
	}
	if err := a.detach(ctx, att); err != nil {
		return err
	}
	a.log.Info("pod detached", "pod", podName(att.Endpoint), "address", att.Endpoint.Addr, "container", short(id.ContainerID))
	return nil
}

// detach makes an endpoint unreachable and writes its release down. Its link
// is destroyed, and its address given back, behind the answer.
func (a *Agent) detach(ctx context.Context, att journal.Attachment) error {
	done := a.touch(att.Endpoint.HostIf)
	defer done()
	a.feed.DeleteEndpoint(att.ID())
	if err := a.kernel.Detach(ctx, core.WantEndpoint(a.feed.Snapshot().Settings, att.Endpoint)); err != nil {
		return fault.New(fault.KindOf(err), "detach %s: %w", podName(att.Endpoint), err)
	}
	att.State = journal.Detached
	if err := a.journal.Put(att); err != nil {
		return err
	}
	a.tellDetached(att)
	a.undertaker.wake()
	return nil
}

// Status says whether this node has its network: why pods may not reach
// anything (code 51), and until it was so once since the boot, why they cannot
// be served. Later nothing that an Add would be refused for is said: a runtime
// that hears of it takes the node out, and its pods out of their services,
// while their network is there. The runtime tries an Add again by itself.
func (a *Agent) Status(context.Context, cniwire.StatusRequest) error {
	if err := a.limited(); err != nil {
		return cniwire.WithCode(cniwire.CodeLimited, fault.Hint(err, "ocicat status says what the kernel refused; the agent keeps trying."))
	}
	served := filepath.Join(a.cfg.RunDir, cniwire.ServedFile)
	if a.served.Load() {
		return nil
	}
	if _, err := os.Stat(served); err == nil {
		a.served.Store(true)
		return nil
	}
	if err := a.serving(); err != nil {
		return err
	}
	select {
	case <-a.known:
	default:
		return fault.Hint(fault.New(fault.Unavailable, "the node and its pools are not known yet"), "An agent that starts for the first time needs its datastore; then there must be an IPPool.")
	}
	if err := a.reserve.Available(); err != nil {
		return err
	}
	a.served.Store(true)
	if err := os.WriteFile(served, nil, 0o600); err != nil {
		a.log.Warn("the runtime is told that this node is not ready whenever its agent is away", "error", err)
	}
	return nil
}

// limitedGrace is how long the kernel must have refused: what goes at the next
// pass is no reason to take a node out.
const limitedGrace = 5 * time.Second

// limited says why this node's pods may not reach anything: what its kernel
// refused of theirs. That a peer is away, or its routes are refused, is not this
// node's fault, and not said: a runtime takes a node out for it.
func (a *Agent) limited() error {
	if last := a.last.Load(); last != nil && last.limited != nil && time.Since(last.limitedSince) > limitedGrace {
		return fault.New(fault.Internal, "pods may have limited connectivity: %w", last.limited)
	}
	for _, p := range a.filter.Problems() {
		if p.Code == problem.KernelRefused {
			return fault.New(fault.Internal, "the packet filter is not as it should be: %s", p.Text)
		}
	}
	return nil
}

// awaitPools gives an agent that starts for the first time the moment it needs
// to know its pools.
func (a *Agent) awaitPools(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, startGrace)
	defer cancel()
	select {
	case <-ctx.Done():
	case <-a.known:
	}
}

// serving is nil once pods can be served.
func (a *Agent) serving() error {
	if !a.feed.Snapshot().EndpointsSynced {
		return fault.Hint(fault.New(fault.Unavailable, "the agent is starting"), "The runtime tries again by itself.")
	}
	return a.filter.ready()
}

// attributes are what the datastore stores beside the address, in Calico's
// words.
func (a *Agent) attributes(req cniwire.AddRequest) map[string]string {
	attrs := map[string]string{"node": string(a.feed.Snapshot().Self), "timestamp": time.Now().UTC().Format("2006-01-02 15:04:05.999999999 -0700 MST")}
	if req.Pod.Name != "" {
		attrs["pod"], attrs["namespace"] = req.Pod.Name, req.Pod.Namespace
	}
	return attrs
}

func wantedAddr(req cniwire.AddRequest) netip.Addr {
	if len(req.IPs) == 0 {
		return netip.Addr{}
	}
	return req.IPs[0]
}

func resultOf(ep cluster.Endpoint) cniwire.AddResult {
	return cniwire.AddResult{
		HostIf:    ep.HostIf,
		HostMAC:   core.GatewayMAC.String(),
		MAC:       ep.MAC.String(),
		MTU:       ep.MTU,
		Addresses: []netip.Prefix{netip.PrefixFrom(ep.Addr, ep.Addr.BitLen())},
	}
}

// uplinkMTU is the MTU pods get: that of the device packets leave by.
func uplinkMTU(h cluster.Host) int {
	for _, d := range h.Devices {
		if d.Name == h.Uplink {
			return d.MTU
		}
	}
	return defaultMTU
}

func podName(ep cluster.Endpoint) string {
	if ep.Pod == "" {
		return "container " + short(ep.ID.ContainerID)
	}
	return ep.Namespace + "/" + ep.Pod
}

// short is a container id as runtimes print it.
func short(id string) string {
	if len(id) > 13 {
		return id[:13]
	}
	return id
}
