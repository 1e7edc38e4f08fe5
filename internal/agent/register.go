// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// retryRegistration is how long the agent waits after the datastore refused
// its registration.
const retryRegistration = 500 * time.Millisecond

// register writes what the environment says into the datastore at start: the
// node's own Node, and the default pools where no pool exists (Calico's
// meaning of CALICO_IPV4POOL_CIDR). Then it is done.
func (a *Agent) register(ctx context.Context) error {
	warned := false
	for ctx.Err() == nil {
		err := a.registerOnce(ctx)
		if err == nil {
			break
		}
		if !warned && ctx.Err() == nil {
			a.log.Warn("node not registered yet, trying again", "error", err)
			warned = true
		}
		sleep(ctx, retryRegistration)
	}
	<-ctx.Done()
	return nil
}

func (a *Agent) registerOnce(ctx context.Context) error {
	if err := a.createDefaultPools(ctx); err != nil {
		return err
	}
	return a.writeNode(ctx)
}

// createDefaultPools creates the pools of the environment if there is none at
// all. Two nodes that start at once create the same ones: the second's
// conflict is no error.
func (a *Agent) createDefaultPools(ctx context.Context) error {
	pools, _, err := a.cfg.Store.List(ctx, store.IPPool, "")
	if err != nil || len(pools) > 0 {
		return err
	}
	for _, pool := range a.cfg.DefaultPools {
		pool.SetDefaults()
		resource.Create(pool, newUID(), time.Now())
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

// writeNode creates the node's Node, or brings its address and AS up to date;
// what others wrote into it stays.
func (a *Agent) writeNode(ctx context.Context) error {
	links, err := a.kernel.Links(ctx)
	if err != nil {
		return err
	}
	address, err := a.cfg.Address(links)
	if err != nil {
		return err
	}
	key := store.Key{Kind: store.Node, Name: string(a.cfg.Node)}
	entry, err := a.cfg.Store.Get(ctx, key)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	node := &v3.Node{Type: meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindNode}, Metadata: meta.Object{Name: string(a.cfg.Node)}}
	if err == nil {
		object, err := resource.Decode(entry)
		if err != nil {
			return err
		}
		node = object.(*v3.Node)
	} else {
		resource.Create(node, newUID(), time.Now())
	}
	if node.Spec.BGP == nil {
		node.Spec.BGP = &v3.NodeBGPSpec{}
	}
	if address.IsValid() {
		node.Spec.BGP.IPv4Address = address.String()
	}
	if a.cfg.AS != nil {
		node.Spec.BGP.ASNumber = a.cfg.AS
	}
	value, err := resource.Encode(node, entry.Value)
	if err != nil || resource.Equal(value, entry.Value) {
		return err
	}
	if _, err := a.cfg.Store.Put(ctx, key, value, entry.Revision); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	a.log.Info("node registered", "node", a.cfg.Node, "address", node.Spec.BGP.IPv4Address)
	return nil
}

// newUID is a random UUID of version 4 (RFC 9562).
func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
