// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubenode"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store"
)

// namespaces is a Kubernetes that knows the labels of namespaces, and nothing
// else.
type namespaces struct {
	agent.Kubernetes
	labels map[string]map[string]string
}

func (namespaces) String() string                { return "kubernetes" }
func (namespaces) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (namespaces) NamespaceAnnotations(context.Context, string) (map[string]string, error) {
	return nil, nil
}
func (namespaces) Problems() []problem.Problem       { return nil }
func (namespaces) OnChange(func())                   {}
func (namespaces) Serving()                          {}
func (namespaces) Attached(kubenode.Pod, netip.Addr) {}
func (namespaces) Detached(kubenode.Pod)             {}
func (namespaces) Tell([]problem.Problem)            {}
func (n namespaces) NamespaceLabels(_ context.Context, name string) (map[string]string, error) {
	if labels, ok := n.labels[name]; ok {
		return labels, nil
	}
	return nil, fault.New(fault.Unavailable, "nobody answers")
}

// TestPoolOfNamespaces: with a pool of team x alone, its pods have addresses of
// it, and others none; with a pool of everybody beside it, all are served.
func TestPoolOfNamespaces(t *testing.T) {
	n := newNode(t)
	n.cfg.Kubernetes = namespaces{labels: map[string]map[string]string{"x": {"team": "x"}, "y": {"team": "y"}}}
	n.cfg.DefaultPools = func([]netip.Prefix) ([]*v3.IPPool, error) { return nil, nil }
	n.putPool("team", "10.77.0.0/24", "team == 'x'")
	n.start()
	of := func(namespace string) *pod {
		p := n.pod("web-"+namespace, "c-"+namespace)
		p.req.Pod.Namespace, p.req.Annotated = namespace, true
		return p
	}
	if got := n.add(of("x")).Addresses[0]; !netip.MustParsePrefix("10.77.0.0/24").Contains(got.Addr()) {
		t.Errorf("a pod of team x has %s", got)
	}
	other, unknown := of("y"), of("z")
	if _, err := n.agent.Add(t.Context(), other.req); !fault.Is(err, fault.Exhausted) {
		t.Errorf("a pod of team y without a pool: %v", err)
	}
	if _, err := n.agent.Add(t.Context(), unknown.req); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a pod of a namespace that is not known: %v", err)
	}
	n.putPool("all", "10.78.0.0/24", "")
	nstest.Eventually(t, 10*time.Second, func() bool {
		result, err := n.agent.Add(t.Context(), other.req)
		return err == nil && netip.MustParsePrefix("10.78.0.0/24").Contains(result.Addresses[0].Addr())
	}, "a pod of team y served from the pool of all")
}

// putPool stores a pool.
func (n *node) putPool(name, cidr, namespaceSelector string) {
	n.t.Helper()
	p := &v3.IPPool{
		Type: meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindIPPool}, Metadata: meta.Object{Name: name},
		Spec: v3.IPPoolSpec{CIDR: cidr, NamespaceSelector: namespaceSelector},
	}
	p.SetDefaults()
	data, err := json.Marshal(p)
	if err == nil {
		_, err = n.cfg.Store.Put(n.t.Context(), store.Key{Kind: store.IPPool, Name: name}, data, 0)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}
