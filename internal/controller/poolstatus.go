// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/kube/shape"
)

// serviceCIDRs are the ranges of the addresses of Services, since Kubernetes
// 1.33.
const serviceCIDRs store.Kind = "servicecidrs"

// statusRetry is the time between two tries to write.
const statusRetry = time.Second

// poolStatus writes at each IPPool whether it can be used, and makes an Event of
// each that cannot. Two beside each other do no harm: a status is written only
// over what was read, and an Event is named by what it says.
type poolStatus struct {
	client *kubeapi.Client
	store  store.Store
	log    *slog.Logger
	work   chan struct{}

	mu       sync.Mutex // of what is followed; nil: not read yet
	pools    map[string]pool
	nodes    map[string]netip.Prefix
	services map[string][]netip.Prefix
	// unserved says that the API server has no ServiceCIDRs.
	unserved bool

	// Of run alone:
	settled map[string]meta.Condition // by pool: what was refused, and is not tried again
	told    map[string]string         // by pool: the name of its last Event
}

func newPoolStatus(client *kubeapi.Client, s store.Store, log *slog.Logger) *poolStatus {
	return &poolStatus{
		client: client, store: s, log: log, work: make(chan struct{}, 1),
		settled: map[string]meta.Condition{}, told: map[string]string{},
	}
}

// run follows and writes until ctx ends.
func (s *poolStatus) run(ctx context.Context) {
	var following sync.WaitGroup
	defer following.Wait()
	options := store.FollowOptions{Relist: kubeapi.Relist, Log: s.log}
	following.Go(func() { store.Follow(ctx, s.store, store.IPPool, "", options, s.learnPools) })
	following.Go(func() { store.Follow(ctx, s.store, store.Node, "", options, s.learnNodes) })
	following.Go(func() {
		s.client.Follow(ctx, kubeapi.Source{Kind: serviceCIDRs, Path: "/apis/networking.k8s.io/v1/servicecidrs"}, s.learnServices)
	})
	said := ""
	for {
		var again <-chan time.Time
		err := s.write(ctx)
		if err != nil && ctx.Err() == nil {
			again = time.After(statusRetry)
			if said != err.Error() {
				s.log.Warn("conditions of pools not written, trying on", "error", err)
			}
			said = err.Error()
		} else {
			said = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-s.work:
		case <-again:
		}
	}
}

// pool is a pool as it was read.
type pool struct {
	poolObject
	revision store.Revision
}

func (s *poolStatus) learnPools(u store.Update) {
	s.mu.Lock()
	s.pools = learn(s.pools, u, func(e store.Entry) (p pool, err error) {
		p.revision = e.Revision
		return p, json.Unmarshal(e.Value, &p.poolObject)
	})
	s.mu.Unlock()
	s.wake()
}

// learnNodes keeps the networks of nodes alone: a Node is written every few
// minutes, and what is kept seldom changes.
func (s *poolStatus) learnNodes(u store.Update) {
	s.mu.Lock()
	before, first := maps.Clone(s.nodes), s.nodes == nil
	s.nodes = learn(s.nodes, u, func(e store.Entry) (netip.Prefix, error) {
		var n v3.Node
		err := json.Unmarshal(e.Value, &n)
		return n.IPv4().Masked(), err
	})
	news := first || !maps.Equal(before, s.nodes)
	s.mu.Unlock()
	if news {
		s.wake()
	}
}

func (s *poolStatus) learnServices(u store.Update) {
	s.mu.Lock()
	s.unserved = s.unserved || kubeapi.IsNoResource(u.Err)
	s.services = learn(s.services, u, serviceRanges)
	s.mu.Unlock()
	s.wake()
}

func (s *poolStatus) wake() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// learn is what was known with an update. What cannot be read is left out: its
// reader at the nodes reports it.
func learn[V any](known map[string]V, u store.Update, decode func(store.Entry) (V, error)) map[string]V {
	if u.Full {
		known = map[string]V{}
	}
	for _, e := range u.Entries {
		if v, err := decode(e); err == nil {
			known[e.Key.Name] = v
		} else {
			delete(known, e.Key.Name)
		}
	}
	for _, key := range u.Deleted {
		delete(known, key.Name)
	}
	return known
}

// serviceRanges are the ranges of a ServiceCIDR.
func serviceRanges(e store.Entry) ([]netip.Prefix, error) {
	var o struct {
		Spec struct {
			CIDRs []netip.Prefix `json:"cidrs"`
		} `json:"spec"`
	}
	err := json.Unmarshal(e.Value, &o)
	return o.Spec.CIDRs, err
}

// facts are what is known; ok says that it is enough to judge by.
func (s *poolStatus) facts() (pools []pool, f poolFacts, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pools == nil || s.nodes == nil || s.services == nil {
		return nil, f, false
	}
	f.nodes = maps.Clone(s.nodes)
	for _, name := range slices.Sorted(maps.Keys(s.pools)) {
		p := s.pools[name]
		pools = append(pools, p)
		f.pools = append(f.pools, &p.IPPool)
	}
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		f.services = append(f.services, s.services[name]...)
	}
	return pools, f, true
}

// write makes conditions and Events what they should be. It goes on after a
// failure, and returns the first one that trying again can mend.
func (s *poolStatus) write(ctx context.Context) error {
	if err := s.withoutServiceCIDRs(ctx); err != nil {
		return err
	}
	pools, f, ok := s.facts()
	if !ok {
		return nil
	}
	verdicts, failed := judge(f), error(nil)
	for _, p := range pools {
		if err := s.writePool(ctx, p, verdicts[p.Metadata.Name]); err != nil && failed == nil {
			failed = err
		}
	}
	gone := func(name string) bool { _, is := verdicts[name]; return !is }
	maps.DeleteFunc(s.settled, func(name string, _ meta.Condition) bool { return gone(name) })
	maps.DeleteFunc(s.told, func(name, _ string) bool { return gone(name) })
	return failed
}

// withoutServiceCIDRs takes the address of the Service kubernetes for the range
// where the API server has no ServiceCIDRs: more cannot be known.
func (s *poolStatus) withoutServiceCIDRs(ctx context.Context) error {
	s.mu.Lock()
	needed := s.unserved && s.services == nil
	s.mu.Unlock()
	if !needed {
		return nil
	}
	answer, err := s.client.Call(ctx, kubeapi.Request{What: "get service kubernetes", Method: http.MethodGet, Path: "/api/v1/namespaces/default/services/kubernetes"})
	if err != nil {
		return err
	}
	var service struct {
		Spec struct {
			ClusterIP netip.Addr `json:"clusterIP"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(answer, &service); err != nil {
		return fault.New(fault.Internal, "read service kubernetes: %w", err)
	}
	address := service.Spec.ClusterIP
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services == nil { // none was read meanwhile
		s.services = map[string][]netip.Prefix{"kubernetes": {netip.PrefixFrom(address, address.BitLen())}}
	}
	return nil
}

// writePool writes a pool's condition, if it is another, then its Event. What
// the server refuses is given up until there is something else to say.
func (s *poolStatus) writePool(ctx context.Context, p pool, wanted meta.Condition) error {
	conditions, is, differs := meta.WithCondition(p.Status.Conditions, wanted, time.Now())
	if differs && s.settled[p.Metadata.Name] != wanted {
		switch err := s.patch(ctx, p, conditions); {
		case fault.Is(err, fault.Conflict), fault.Is(err, fault.NotFound):
			return nil // changed since: what follows brings it here
		case err != nil && later(err):
			return err
		case err != nil: // Calico's older kinds have no status
			s.log.Debug("condition of pool given up", "pool", p.Metadata.Name, "error", err)
			s.settled[p.Metadata.Name] = wanted
		default:
			delete(s.settled, p.Metadata.Name)
		}
	}
	if !warns(is) {
		delete(s.told, p.Metadata.Name)
		return nil
	}
	if s.settled[p.Metadata.Name] == wanted {
		is.LastTransitionTime = "" // never written
	}
	return s.tell(ctx, p, is)
}

// later says whether trying again can mend a failure. A right may come with the
// rest of a manifest.
func later(err error) bool {
	return fault.Is(err, fault.Unavailable) && !kubeapi.IsNoResource(err)
}

func (s *poolStatus) patch(ctx context.Context, p pool, conditions []meta.Condition) error {
	what := "write the condition of pool " + p.Metadata.Name
	resource, _ := shape.V3().Resource(store.IPPool)
	path, err := resource.PathOf(store.Key{Kind: store.IPPool, Name: p.Metadata.Name})
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]string{"resourceVersion": kubeapi.FormatRevision(p.revision)},
		"status":   map[string]any{"conditions": conditions},
	})
	if err != nil {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	_, err = s.client.Call(ctx, kubeapi.Request{What: what, Method: http.MethodPatch, Path: path + "/status", Body: body, MIME: kubeapi.MergePatch})
	return err
}

// eventLimit is how long the message of an event may be, in bytes; nameLimit
// how much of a pool's name stands in an event's.
const (
	eventLimit = 1024
	nameLimit  = 200
)

// tell makes the Event of a condition, once.
func (s *poolStatus) tell(ctx context.Context, p pool, c meta.Condition) error {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s\n%s\n%s", p.Metadata.UID, c.LastTransitionTime, c.Message)
	name := fmt.Sprintf("%s.%016x", p.Metadata.Name[:min(len(p.Metadata.Name), nameLimit)], hash.Sum64())
	if s.told[p.Metadata.Name] == name {
		return nil
	}
	now := time.Now().UTC().Format(time.RFC3339)
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]string{"namespace": "default", "name": name},
		"involvedObject": map[string]string{"kind": p.Kind, "apiVersion": p.APIVersion, "name": p.Metadata.Name, "uid": p.Metadata.UID},
		"reason":         c.Reason, "message": c.Message[:min(len(c.Message), eventLimit)], "type": "Warning",
		"source":         map[string]string{"component": "ocicat-controller"},
		"firstTimestamp": now, "lastTimestamp": now, "count": 1,
	})
	if err != nil {
		return fault.New(fault.Internal, "make event of pool %s: %w", p.Metadata.Name, err)
	}
	_, err = s.client.Call(ctx, kubeapi.Request{What: "make event of pool " + p.Metadata.Name, Method: http.MethodPost, Path: "/api/v1/namespaces/default/events", Body: body})
	if err != nil && later(err) && !errors.Is(err, store.ErrDenied) {
		return err
	}
	if err != nil && !fault.Is(err, fault.Conflict) { // a conflict: another controller made it
		s.log.Warn("event not made", "pool", p.Metadata.Name, "error", err)
	}
	s.told[p.Metadata.Name] = name
	return nil
}
