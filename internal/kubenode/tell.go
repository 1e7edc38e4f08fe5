// SPDX-License-Identifier: Apache-2.0

package kubenode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Pod names a pod as it is known to the runtime.
type Pod struct {
	Namespace, Name string
	UID             string // "" where the runtime does not say: the name alone counts
	ContainerID     string // of the sandbox
}

type podKey struct{ namespace, name string }

// problemKey is what makes two problems the same for events: the text may count.
type problemKey struct {
	code   problem.Code
	object string
}

// podAddress is what a pod's annotations are to say; invalid for detached.
type podAddress struct {
	pod  Pod
	addr netip.Addr
}

// tellRetry is the time between two tries to tell.
const tellRetry = 5 * time.Second

// eventAgain is how long a problem must be gone to be an event again.
const eventAgain = 10 * time.Minute

// Serving tells that pods can be served: the condition NetworkUnavailable of the
// Node becomes False.
func (n *Node) Serving() {
	n.mu.Lock()
	n.serving = true
	n.mu.Unlock()
	n.wake()
}

// Attached tells which address a pod has, before its kubelet does:
// cni.projectcalico.org/podIP, podIPs and containerID.
func (n *Node) Attached(pod Pod, addr netip.Addr) { n.address(pod, addr) }

// Detached tells that a pod has its address no more: podIP becomes empty.
func (n *Node) Detached(pod Pod) { n.address(pod, netip.Addr{}) }

func (n *Node) address(pod Pod, addr netip.Addr) {
	if pod.Name == "" {
		return
	}
	n.mu.Lock()
	n.addresses[podKey{pod.Namespace, pod.Name}] = podAddress{pod, addr}
	n.mu.Unlock()
	n.wake()
}

// Tell makes an event of each problem that is new.
func (n *Node) Tell(problems []problem.Problem) {
	now := time.Now()
	n.mu.Lock()
	for key, last := range n.told {
		if now.Sub(last) > eventAgain {
			delete(n.told, key)
		}
	}
	for _, p := range problems {
		key := problemKey{p.Code, p.Object}
		if _, told := n.told[key]; !told {
			n.events = append(n.events, p)
		}
		n.told[key] = now
	}
	pending := len(n.events) > 0
	n.mu.Unlock()
	if pending {
		n.wake()
	}
}

func (n *Node) wake() {
	select {
	case n.work <- struct{}{}:
	default:
	}
}

// write tells what there is to tell, and again what could not be told.
func (n *Node) write(ctx context.Context) {
	for {
		var again <-chan time.Time
		if err := n.tellAll(ctx); err != nil && ctx.Err() == nil {
			n.cfg.Log.Debug("Kubernetes not told, trying again", "error", err)
			again = time.After(tellRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-n.work:
		case <-again:
		}
	}
}

// tellAll stops at the first failure that trying again can mend; what the
// server refuses is given up.
func (n *Node) tellAll(ctx context.Context) error {
	if err := n.tellServing(ctx); err != nil {
		return err
	}
	for {
		n.mu.Lock()
		var next podAddress
		for _, next = range n.addresses {
			break
		}
		n.mu.Unlock()
		if next.pod.Name == "" {
			break
		}
		if err := n.tellAddress(ctx, next); err != nil {
			return err
		}
	}
	for {
		n.mu.Lock()
		events := n.events
		n.mu.Unlock()
		if len(events) == 0 {
			return nil
		}
		if err := n.tellEvent(ctx, events[0]); err != nil {
			return err
		}
		n.mu.Lock()
		n.events = n.events[1:]
		n.mu.Unlock()
	}
}

// tellServing sets the Node's condition.
func (n *Node) tellServing(ctx context.Context) error {
	n.mu.Lock()
	serving := n.serving
	n.mu.Unlock()
	if !serving {
		return nil
	}
	now := time.Now().UTC().Format(time.RFC3339)
	err := n.patch(ctx, "tell that node "+n.cfg.Node+" has its network", "/api/v1/nodes/"+n.cfg.Node+"/status", "application/strategic-merge-patch+json", map[string]any{
		"status": map[string]any{"conditions": []any{map[string]string{
			"type": "NetworkUnavailable", "status": "False", "reason": "OcicatIsUp", "message": "Ocicat serves pods on this node",
			"lastHeartbeatTime": now, "lastTransitionTime": now,
		}}},
	})
	if err != nil && later(err) {
		return err
	}
	if err != nil {
		n.cfg.Log.Warn("condition NetworkUnavailable not cleared", "error", err)
	}
	n.mu.Lock()
	n.serving = false
	n.mu.Unlock()
	return nil
}

// later says whether trying again can mend a failure.
func later(err error) bool {
	return fault.Is(err, fault.Unavailable) && !errors.Is(err, store.ErrDenied)
}

func (n *Node) tellAddress(ctx context.Context, a podAddress) error {
	text := ""
	if a.addr.IsValid() {
		text = netip.PrefixFrom(a.addr, a.addr.BitLen()).String()
	}
	meta := map[string]any{"annotations": map[string]string{Prefix + "containerID": a.pod.ContainerID, Prefix + "podIP": text, Prefix + "podIPs": text}}
	if a.pod.UID != "" {
		meta["uid"] = a.pod.UID // another pod of that name is a conflict
	}
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/status", a.pod.Namespace, a.pod.Name)
	err := n.patch(ctx, fmt.Sprintf("tell the address of pod %s/%s", a.pod.Namespace, a.pod.Name), path, kubeapi.MergePatch, map[string]any{"metadata": meta})
	if err != nil && later(err) {
		return err
	}
	if err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Conflict) {
		n.cfg.Log.Warn("address of pod not told", "pod", a.pod.Namespace+"/"+a.pod.Name, "error", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if key := (podKey{a.pod.Namespace, a.pod.Name}); n.addresses[key] == a {
		delete(n.addresses, key)
	}
	return nil
}

// eventLimit is how long the message of an event may be, in bytes.
const eventLimit = 1024

// tellEvent makes an event at the Node.
func (n *Node) tellEvent(ctx context.Context, p problem.Problem) error {
	now := time.Now().UTC()
	message := fmt.Sprintf("%s: %s. %s", p.Code, p.Text, p.Remedy)
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]string{"namespace": "default", "name": fmt.Sprintf("%s.%x", n.cfg.Node, now.UnixNano())},
		"involvedObject": map[string]string{"kind": "Node", "apiVersion": "v1", "name": n.cfg.Node, "uid": n.cfg.Node},
		"reason":         string(p.Code), "message": message[:min(len(message), eventLimit)], "type": "Warning",
		"source":         map[string]string{"component": "ocicat", "host": n.cfg.Node},
		"firstTimestamp": now.Format(time.RFC3339), "lastTimestamp": now.Format(time.RFC3339), "count": 1,
	})
	if err != nil {
		return fault.New(fault.Internal, "make event: %w", err)
	}
	_, err = n.cfg.Client.Call(ctx, kubeapi.Request{What: "make event", Method: http.MethodPost, Path: "/api/v1/namespaces/default/events", Body: body})
	if err != nil && !later(err) {
		n.cfg.Log.Warn("event not made", "code", p.Code, "error", err)
		return nil
	}
	return err
}

func (n *Node) patch(ctx context.Context, what, path, mime string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	_, err = n.cfg.Client.Call(ctx, kubeapi.Request{What: what, Method: http.MethodPatch, Path: path, Body: data, MIME: mime})
	return err
}
