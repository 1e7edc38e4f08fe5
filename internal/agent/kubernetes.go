// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/cniplugin"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/journal"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/kubenode"
	"github.com/ocicat-net/ocicat/internal/problem"
)

// Kubernetes is what the agent asks of a Kubernetes cluster, and tells it,
// beyond the datastore. Telling never blocks.
type Kubernetes interface {
	task
	admin.Reviewer
	// PodAnnotations are Calico's of a pod; Unavailable where they are not known
	// and nobody could be asked.
	PodAnnotations(ctx context.Context, namespace, name string) (map[string]string, error)
	// NamespaceAnnotations are the same of a namespace.
	NamespaceAnnotations(ctx context.Context, name string) (map[string]string, error)
	// NamespaceLabels are a namespace's labels, an error where they are not known.
	NamespaceLabels(ctx context.Context, name string) (map[string]string, error)
	// Problems are what the cluster asks for and nobody does.
	Problems() []problem.Problem
	// OnChange has a function called when Problems change.
	OnChange(changed func())
	// Serving tells that pods can be served.
	Serving()
	// Attached tells which address a pod has.
	Attached(pod kubenode.Pod, addr netip.Addr)
	// Detached tells that it has none any more.
	Detached(pod kubenode.Pod)
	// Tell makes events of problems.
	Tell(problems []problem.Problem)
}

// relist is how often the datastore is read whole although its watches work.
// Kubernetes' watches say when they cannot go on, and a thousand agents that
// read a thousand Nodes would be its heaviest user.
func (a *Agent) relist() time.Duration {
	if a.cfg.Kubernetes != nil {
		return kubeapi.Relist
	}
	return relist
}

// kubernetesProblems are what the cluster asks for and nobody does.
func (a *Agent) kubernetesProblems() []problem.Problem {
	if a.cfg.Kubernetes == nil {
		return nil
	}
	return a.cfg.Kubernetes.Problems()
}

// annotated adds to a request what annotations ask for that the runtime did not
// hand over: the pod's own, and those of its namespace. What is not known is not
// taken for none: the runtime tries again.
func (a *Agent) annotated(ctx context.Context, req cniwire.AddRequest) (cniwire.AddRequest, error) {
	if a.cfg.Kubernetes == nil || req.Pod.Name == "" {
		return req, nil
	}
	if _, again := a.journal.Get(idOf(req)); again {
		return req, nil // its first try has its address
	}
	if !req.Annotated {
		notes, err := a.cfg.Kubernetes.PodAnnotations(ctx, req.Pod.Namespace, req.Pod.Name)
		if err != nil {
			return req, unknownAnnotations("pod "+req.Pod.Namespace+"/"+req.Pod.Name, err)
		}
		if err := cniplugin.Annotate(&req, notes); err != nil {
			return req, err
		}
	}
	if req.PoolsNoted || len(req.IPs) > 0 {
		return req, nil
	}
	notes, err := a.cfg.Kubernetes.NamespaceAnnotations(ctx, req.Pod.Namespace)
	if err != nil {
		return req, unknownAnnotations("namespace "+req.Pod.Namespace, err)
	}
	if err := cniplugin.AnnotateByNamespace(&req, notes); err != nil || len(req.Pools) > 0 {
		return req, err
	}
	req.Pools, err = ipam.NewClient(ipam.ClientConfig{Store: a.cfg.Store, Pools: a.pools, NodeLabels: a.nodeLabels}).
		NamespacePools(ctx, string(a.cfg.Node), func() (map[string]string, error) {
			labels, err := a.cfg.Kubernetes.NamespaceLabels(ctx, req.Pod.Namespace)
			if err != nil {
				return nil, fault.Hint(fault.New(fault.Unavailable, "the labels of namespace %s are not known: %w", req.Pod.Namespace, err), "The runtime tries again by itself; the API server must answer once.")
			}
			return labels, nil
		})
	return req, err
}

func unknownAnnotations(of string, err error) error {
	return fault.Hint(fault.New(fault.Unavailable, "the annotations of %s are not known: %w", of, err), "The runtime tries again by itself; the API server must answer once.")
}

// podOf is the pod of an attachment.
func podOf(att journal.Attachment) kubenode.Pod {
	return kubenode.Pod{Namespace: att.Endpoint.Namespace, Name: att.Endpoint.Pod, UID: att.PodUID, ContainerID: att.ID().ContainerID}
}

// tellAttached tells Kubernetes of an address given.
func (a *Agent) tellAttached(att journal.Attachment) {
	if a.cfg.Kubernetes != nil {
		a.cfg.Kubernetes.Attached(podOf(att), att.Endpoint.Addr)
	}
}

// tellDetached tells Kubernetes of an address taken back. Without the pod's UID
// it says nothing: a newer pod of the name may have another.
func (a *Agent) tellDetached(att journal.Attachment) {
	if a.cfg.Kubernetes != nil && att.PodUID != "" {
		a.cfg.Kubernetes.Detached(podOf(att))
	}
}

// tellServing tells Kubernetes once the node serves pods, and at each later
// start of the agent again: a kubelet that registers anew sets the condition
// back.
func (a *Agent) tellServing(ctx context.Context) error {
	for a.Ready() != nil {
		if !sleep(ctx, servingPoll) {
			return nil
		}
	}
	a.cfg.Kubernetes.Serving()
	return nil
}
