// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Environment is what the environment says of the pools at every start; nil
// for nothing.
type Environment interface {
	// Remember writes into a pool what changed since the node's last start,
	// when its variables were last, and returns the fields written.
	Remember(pool *v3.IPPool, last map[string]string) ([]string, error)
	// Differences are the variables a pool differs from.
	Differences(pool *v3.IPPool) []problem.Problem
}

// memory is what the node's NodeStatus keeps from its last start: the pool
// variables, and since when its conditions are what they are.
type memory struct {
	mu         sync.Mutex
	read       bool              // last is what the datastore had
	started    bool              // the node started before
	last       map[string]string // the variables it then had
	conditions []meta.Condition
	applied    bool // this start's variables are dealt with
}

// recallEnvironment reads the variables of the last start, once: before this
// agent writes its first NodeStatus in the place of the old one.
func (a *Agent) recallEnvironment(ctx context.Context) error {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	if a.memory.read {
		return nil
	}
	entry, err := a.cfg.Store.Get(ctx, store.Key{Kind: store.NodeStatus, Name: string(a.cfg.Node)})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err == nil {
		if object, err := resource.Decode(entry); err == nil { // another's bytes are no memory
			said := object.(*v1.NodeStatus).Status
			a.memory.last, a.memory.conditions, a.memory.started = said.AppliedEnvironment, said.Conditions, true
		}
	}
	a.memory.read = true
	return nil
}

// environment is what the NodeStatus keeps: the variables of this start once
// they are dealt with, until then those of the last.
func (a *Agent) environment() map[string]string {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	if a.memory.applied {
		return a.cfg.AppliedEnv
	}
	return a.memory.last
}

// conditionsBefore are those the node had before this start.
func (a *Agent) conditionsBefore() []meta.Condition {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	return a.memory.conditions
}

// applyEnvironment writes into the pools what changed in the environment since
// this node's last start.
func (a *Agent) applyEnvironment(ctx context.Context) error {
	if err := a.recallEnvironment(ctx); err != nil {
		return err
	}
	a.memory.mu.Lock()
	last, started, done := a.memory.last, a.memory.started, a.memory.applied
	a.memory.mu.Unlock()
	if done {
		return nil
	}
	if started && a.cfg.Environment != nil {
		if err := a.rewritePools(ctx, last); err != nil {
			return err
		}
	}
	a.memory.mu.Lock()
	a.memory.applied = true
	a.memory.mu.Unlock()
	a.loop.Mark(sectionStatus)
	return nil
}

func (a *Agent) rewritePools(ctx context.Context, last map[string]string) error {
	entries, _, err := a.cfg.Store.List(ctx, store.IPPool, "")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		object, err := resource.Decode(entry)
		if err != nil {
			continue // quarantined, told as OC5002
		}
		pool := object.(*v3.IPPool)
		fields, err := a.cfg.Environment.Remember(pool, last)
		if err != nil {
			a.log.Warn("pool not changed by the environment", "pool", pool.Metadata.Name, "error", err)
			continue
		}
		if len(fields) == 0 {
			continue
		}
		value, err := resource.Encode(pool, entry.Value)
		if err != nil {
			return err
		}
		if _, err := a.cfg.Store.Put(ctx, entry.Key, value, entry.Revision); err != nil {
			return fault.New(fault.KindOf(err), "write what changed in the environment: %w", err)
		}
		a.log.Info("pool changed by the environment", "pool", pool.Metadata.Name, "fields", fields)
	}
	return nil
}
