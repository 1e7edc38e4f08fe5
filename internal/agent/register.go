// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// retryRegistration is how long the agent waits after the datastore refused
// its registration.
const retryRegistration = 500 * time.Millisecond

// register writes what the environment says into the datastore at start: the
// node's own Node, and the default pools where no pool exists (Calico's
// meaning of CALICO_IPV4POOL_CIDR). From then on it keeps the Node's address
// what this machine's is.
func (a *Agent) register(ctx context.Context) error {
	work, warned := a.registerOnce, false
	for ctx.Err() == nil {
		err := work(ctx)
		switch {
		case err == nil:
			work, warned = a.writeNode, false
			a.awaitUplink(ctx, nil)
			continue
		case !warned && ctx.Err() == nil:
			a.log.Warn("node not registered yet, trying again", "error", err)
			warned = true
		}
		a.awaitUplink(ctx, time.After(retryRegistration))
	}
	return nil
}

func (a *Agent) registerOnce(ctx context.Context) error {
	if err := a.createDefaultPools(ctx); err != nil {
		return err
	}
	if err := a.applyEnvironment(ctx); err != nil {
		return err
	}
	if err := a.writeNode(ctx); err != nil {
		return err
	}
	return a.readBlocks(ctx)
}

// readBlocks reads the own blocks once at start; IPAM reports every change.
func (a *Agent) readBlocks(ctx context.Context) error {
	entries, _, err := a.cfg.Store.List(ctx, store.Affinity, string(a.cfg.Node)+"/")
	if err != nil {
		return err
	}
	var blocks []cluster.Block
	for _, e := range entries {
		_, block, err := names.ParseAffinity(e.Key.Name)
		if err != nil {
			continue // quarantined: IPAM does not use it either
		}
		affinity, err := alloc.ParseAffinity(e.Value)
		if err == nil && affinity.State != alloc.PendingDeletion {
			blocks = append(blocks, cluster.Block{CIDR: block, Confirmed: affinity.State == alloc.Confirmed || affinity.State == ""})
		}
	}
	a.blocks.Lock()
	defer a.blocks.Unlock()
	if !a.blocksTold { // else IPAM read them itself meanwhile, and may have claimed more
		a.setBlocks(blocks)
	}
	return nil
}

// createDefaultPools creates the pools of the environment if there is none at
// all, and was none since the agent started: nothing takes the place of one that
// somebody deleted while the registration waited. Two nodes that start at once create the same ones: the second's
// conflict is no error.
func (a *Agent) createDefaultPools(ctx context.Context) error {
	pools, _, err := a.cfg.Store.List(ctx, store.IPPool, "")
	if err != nil {
		return err
	}
	known := a.resources.knowsPool()
	had := a.hadPools
	if a.hadPools = had || known || len(pools) > 0; len(pools) > 0 {
		return nil
	}
	if known { // it is about to be believed gone, or the datastore was wiped
		return fault.New(fault.Unavailable, "create default pools: the datastore no longer has the pools this node knows")
	}
	if had {
		return nil
	}
	networks, err := a.ownNetworks(ctx)
	if err != nil {
		return err
	}
	defaults, err := a.cfg.DefaultPools(networks)
	if err != nil {
		return err
	}
	for _, pool := range defaults {
		resource.Create(pool, resource.NewUID(), time.Now())
		value, err := resource.Encode(pool, nil)
		if err != nil {
			return err
		}
		_, err = a.cfg.Store.Put(ctx, resource.Key(pool), value, 0)
		if err != nil && !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("create pool %s: %w", pool.Metadata.Name, err)
		}
		a.log.Info("default pool created", "pool", pool.Metadata.Name, "cidr", pool.Spec.CIDR)
	}
	return nil
}

// ownNetworks are the networks this node's devices are in, but for those of
// pods and loopback.
func (a *Agent) ownNetworks(ctx context.Context) ([]netip.Prefix, error) {
	links, err := a.kernel.Links(ctx)
	if err != nil {
		return nil, err
	}
	var networks []netip.Prefix
	for _, name := range sortedKeys(links) {
		if name == "lo" || strings.HasPrefix(name, a.cfg.Settings.InterfacePrefix) {
			continue
		}
		for _, addr := range links[name].Addrs {
			if !addr.IsSingleIP() {
				networks = append(networks, addr.Masked())
			}
		}
	}
	return networks, nil
}

// writeNode creates the node's Node, or brings its address and AS up to date;
// what others wrote into it stays. Without an address the Node stays as it is.
func (a *Agent) writeNode(ctx context.Context) error {
	if gone := a.resources.mistrusted(); gone != "" {
		return fault.New(fault.Unavailable, "write Node %s: the datastore no longer has %s", a.cfg.Node, gone)
	}
	node, entry, err := a.storedNode(ctx)
	if err != nil {
		return err
	}
	choice, err := a.chooseAddress(ctx, node)
	if err != nil {
		return err
	}
	if choice.Err != nil && entry.Value == nil {
		return choice.Err // the first Node of this machine needs an address
	}
	if node.Spec.BGP == nil {
		node.Spec.BGP = &v3.NodeBGPSpec{}
	}
	if choice.Address.IsValid() {
		node.Spec.BGP.IPv4Address = choice.Address.String()
		markDetected(node, choice.Detected)
	}
	if a.cfg.AS != nil {
		node.Spec.BGP.ASNumber = a.cfg.AS
	}
	value, err := resource.Encode(node, entry.Value)
	if err != nil || resource.Equal(value, entry.Value) {
		return err
	}
	if _, err := a.cfg.Store.Put(ctx, entry.Key, value, entry.Revision); err != nil {
		return fmt.Errorf("write %s: %w", entry.Key, err)
	}
	a.log.Info("node registered", "node", a.cfg.Node, "address", node.Spec.BGP.IPv4Address, "why", choice.Why)
	return nil
}

// storedNode is the node's own Node as stored, or a new one with an entry
// that does not exist yet.
func (a *Agent) storedNode(ctx context.Context) (*v3.Node, store.Entry, error) {
	key := store.Key{Kind: store.Node, Name: string(a.cfg.Node)}
	entry, err := a.cfg.Store.Get(ctx, key)
	if fault.Is(err, fault.NotFound) {
		node := &v3.Node{Type: meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindNode}, Metadata: meta.Object{Name: key.Name}}
		resource.Create(node, resource.NewUID(), time.Now())
		return node, store.Entry{Key: key}, nil
	}
	if err != nil {
		return nil, entry, err
	}
	object, err := resource.Decode(entry)
	if err != nil {
		return nil, entry, err
	}
	return object.(*v3.Node), entry, nil
}
