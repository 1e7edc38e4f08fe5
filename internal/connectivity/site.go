// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/portforward"
	"github.com/ocicat-net/ocicat/internal/store"
)

// What is made for a test is called so, and has this label.
const (
	madeName  = "ocicat-connectivity"
	madeLabel = "ocicat.net/connectivity"
	swept     = "true" // its value where a later test may remove it
	kept      = "kept"
)

// Times of a site.
const (
	pollEvery    = 300 * time.Millisecond
	accountLimit = 15 * time.Second // until a new namespace has its account
	removeLimit  = 60 * time.Second
	leftAfter    = time.Hour // from when what a test made is a leftover
)

// API is what a site asks of the API server; *kubeapi.Client has it.
type API interface {
	// Call carries out a request; errors carry a fault kind.
	Call(ctx context.Context, q kubeapi.Request) ([]byte, error)
	// Upgrade makes a connection with another protocol, as portforward.Upgrade.
	Upgrade(ctx context.Context, path string, header http.Header) (net.Conn, error)
}

// Node is a node of the cluster.
type Node struct {
	Name string
	Addr netip.Addr // its InternalIP
	Out  string     // why no pod can run there, empty if one can
}

// Nodes lists the cluster's nodes by name.
func Nodes(ctx context.Context, api API) ([]Node, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name   string            `json:"name"`
				Labels map[string]string `json:"labels"`
			} `json:"metadata"`
			Status struct {
				Addresses  []struct{ Type, Address string }
				Conditions []struct{ Type, Status, Message string }
			} `json:"status"`
		} `json:"items"`
	}
	if err := get(ctx, api, "list nodes", "/api/v1/nodes", nil, &list); err != nil {
		return nil, err
	}
	var nodes []Node
	for _, item := range list.Items {
		n := Node{Name: item.Metadata.Name, Out: "the node says nothing of itself"}
		for _, a := range item.Status.Addresses {
			if a.Type == "InternalIP" && !n.Addr.Is4() {
				n.Addr, _ = netip.ParseAddr(a.Address) // without one there is nothing to test with
			}
		}
		for _, c := range item.Status.Conditions {
			switch {
			case c.Type != "Ready":
			case c.Status == "True":
				n.Out = ""
			default:
				n.Out = "the node is not Ready: " + c.Message
			}
		}
		if system := cmp.Or(item.Metadata.Labels["kubernetes.io/os"], "linux"); system != "linux" {
			n.Out = "the node runs " + system
		}
		if n.Out == "" && !n.Addr.Is4() {
			n.Out = "the node has no IPv4 InternalIP"
		}
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes, nil
}

// Site is a namespace with a probe on each node and a service before them.
type Site struct {
	Namespace string
	Service   netip.Addr
	Name      string // of the service, for pods
	Ends      []End
	Out       map[string]string // nodes without probe, and why

	api   API
	doors map[string]*http.Client // by node
}

// Open makes a namespace with an image's probe on each node and waits for them
// until ctx ends. The caller closes the site, of which there may be something
// also where Open fails. One to keep is not swept later. told hears how many
// probes answer.
func Open(ctx context.Context, api API, nodes []Node, image string, keep bool, told func(ready, of int)) (*Site, error) {
	s := &Site{api: api, Out: map[string]string{}, doors: map[string]*http.Client{}}
	// The name is ours: the answer that tells one the API server chose may never
	// come, and then nobody would know what to remove.
	name := madeName + "-" + strings.ToLower(rand.Text()[:5])
	value := swept
	if keep {
		value = kept
	}
	body := map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]string{
		madeLabel: value, "pod-security.kubernetes.io/enforce": "restricted",
	}}}
	err := s.create(ctx, "make a namespace", "/api/v1/namespaces", body, nil)
	if err == nil || errors.Is(err, store.ErrAmbiguous) {
		s.Namespace = name
	}
	if err != nil {
		return s, err
	}
	names := map[string]string{} // of pods, by node
	for i, n := range nodes {
		if n.Out != "" {
			s.Out[n.Name] = n.Out
			continue
		}
		names[n.Name] = fmt.Sprintf("probe-%d", i)
		if err := s.createPod(ctx, names[n.Name], n.Name, image); err != nil {
			return s, err
		}
	}
	var service struct {
		Spec struct{ ClusterIP string }
	}
	if err := s.create(ctx, "make a service", s.path("services"), serviceBody(), &service); err != nil {
		return s, err
	}
	if s.Service, err = netip.ParseAddr(service.Spec.ClusterIP); err != nil {
		return s, fault.New(fault.Internal, "make a service: its address %q: %w", service.Spec.ClusterIP, err)
	}
	s.Name = "probe." + s.Namespace + ".svc"
	return s, s.await(ctx, nodes, names, told)
}

// object is what all objects have.
type object struct {
	Metadata struct {
		Name              string    `json:"name"`
		CreationTimestamp time.Time `json:"creationTimestamp"`
	} `json:"metadata"`
}

func serviceBody() map[string]any {
	return map[string]any{"metadata": map[string]any{"name": "probe"}, "spec": map[string]any{
		"selector": map[string]string{"app": "probe"},
		"ports":    []any{map[string]any{"name": "tcp", "port": EchoPort, "protocol": "TCP"}, map[string]any{"name": "udp", "port": EchoPort, "protocol": "UDP"}},
	}}
}

// createPod makes a node's pod. The scheduler is not asked: nodes that take no
// new pods are tested too.
func (s *Site) createPod(ctx context.Context, name, node, image string) error {
	body := map[string]any{"metadata": map[string]any{"name": name, "labels": map[string]string{"app": "probe"}}, "spec": map[string]any{
		"nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0, "restartPolicy": "Always",
		"tolerations":     []any{map[string]any{"operator": "Exists"}},
		"securityContext": map[string]any{"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": map[string]any{"type": "RuntimeDefault"}},
		"containers": []any{map[string]any{
			"name": "probe", "image": image, "imagePullPolicy": "IfNotPresent", "command": []string{"/ocicat", "connectivity", "probe"},
			"securityContext": map[string]any{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": map[string]any{"drop": []string{"ALL"}}},
			"resources":       map[string]any{"requests": map[string]any{"cpu": "5m", "memory": "16Mi"}, "limits": map[string]any{"memory": "64Mi"}},
		}},
	}}
	limit, cancel := context.WithTimeout(ctx, accountLimit)
	defer cancel()
	for {
		err := s.create(ctx, "make a pod for node "+node, s.path("pods"), body, nil)
		// The controller manager makes a namespace's account some time later.
		if err == nil || !kubeapi.IsForbidden(err) || !strings.Contains(err.Error(), "serviceaccount") {
			return err
		}
		if pause(limit) != nil {
			return err
		}
	}
}

// await waits until the probes of names answer or ctx ends: those that do not
// are told in Out. None at all is an error.
func (s *Site) await(ctx context.Context, nodes []Node, names map[string]string, told func(ready, of int)) error {
	for {
		told(len(s.Ends), len(names))
		if len(s.Ends) == len(names) {
			break
		}
		if err := pause(ctx); err != nil {
			if errors.Is(err, context.Canceled) {
				return err
			}
			break
		}
		pods, err := s.pods(ctx)
		if err != nil {
			continue // shown as nodes without probe
		}
		for _, n := range nodes {
			if names[n.Name] == "" || slices.ContainsFunc(s.Ends, func(e End) bool { return e.Node == n.Name }) {
				continue
			}
			end, why := s.end(ctx, n, pods[names[n.Name]])
			if s.Out[n.Name] = why; why == "" {
				delete(s.Out, n.Name)
				s.Ends = append(s.Ends, end)
			}
		}
	}
	slices.SortFunc(s.Ends, func(a, b End) int { return cmp.Compare(a.Node, b.Node) })
	if len(s.Ends) > 0 {
		return nil
	}
	for _, node := range slices.Sorted(maps.Keys(s.Out)) {
		return fault.New(fault.Unavailable, "no probe answers; node %s: %s", node, cmp.Or(s.Out[node], "its pod was not started"))
	}
	return fault.New(fault.Unavailable, "no node to test")
}

// end is a node's probe once it answers, or why it does not yet.
func (s *Site) end(ctx context.Context, n Node, p pod) (End, string) {
	e := End{Node: n.Name, Pod: p.Metadata.Name, Host: n.Addr}
	e.Addr, _ = netip.ParseAddr(p.Status.PodIP)
	if !p.ready() || !e.Addr.Is4() {
		return e, s.why(ctx, p)
	}
	connect := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return portforward.Dial(ctx, s.api.Upgrade, s.Namespace, p.Metadata.Name, ControlPort)
	}
	if s.doors[n.Name] == nil {
		s.doors[n.Name] = &http.Client{Transport: &http.Transport{DialContext: connect, MaxIdleConns: 1}}
	}
	if _, err := s.Self(ctx, n.Name); err != nil {
		return e, "its probe does not answer: " + err.Error()
	}
	return e, ""
}

// Self asks a node's probe where it runs.
func (s *Site) Self(ctx context.Context, node string) (Self, error) {
	var self Self
	return self, s.ask(ctx, node, http.MethodGet, "/v1/self", nil, &self)
}

// Try has a node's probe make an attempt.
func (s *Site) Try(ctx context.Context, node string, a Attempt) (Answer, error) {
	var answer Answer
	body, err := json.Marshal(a)
	if err != nil {
		return answer, fault.New(fault.Internal, "ask the probe of %s: %w", node, err)
	}
	return answer, s.ask(ctx, node, http.MethodPost, "/v1/try", body, &answer)
}

// askLimit is how long a probe may take to answer, its tries included.
const askLimit = 15 * time.Second

func (s *Site) ask(ctx context.Context, node, method, path string, body []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, "http://probe"+path, bytes.NewReader(body))
	if err != nil {
		return fault.New(fault.Internal, "ask the probe of %s: %w", node, err)
	}
	reply, err := s.doors[node].Do(q)
	if err != nil {
		return fault.New(fault.Unavailable, "ask the probe of %s: %w", node, errors.Unwrap(err))
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxQuestion))
	if err == nil && reply.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	if err == nil {
		err = json.Unmarshal(text, answer)
	}
	if err != nil {
		return fault.New(fault.Unavailable, "ask the probe of %s: %w", node, err)
	}
	return nil
}

// Close removes what was made, and waits until it is gone or ctx ends.
func (s *Site) Close(ctx context.Context) error {
	for _, door := range s.doors {
		door.CloseIdleConnections()
	}
	if s.Namespace == "" {
		return nil
	}
	path := "/api/v1/namespaces/" + s.Namespace
	_, err := s.api.Call(ctx, kubeapi.Request{What: "remove namespace " + s.Namespace, Method: http.MethodDelete, Path: path})
	for err == nil || fault.Is(err, fault.Conflict) { // it is being removed
		var made object
		if err = get(ctx, s.api, "look at namespace "+s.Namespace, path, nil, &made); err == nil {
			err = pause(ctx)
		}
	}
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return fault.Hint(fmt.Errorf("namespace %s is left: %w", s.Namespace, err), "Remove it: kubectl delete namespace %s", s.Namespace)
}

// Sweep removes the namespaces that tests left behind more than an hour before
// now, and returns their names.
func Sweep(ctx context.Context, api API, now time.Time) (removed []string, err error) {
	var list struct{ Items []object }
	query := url.Values{"labelSelector": {madeLabel + "=" + swept}}
	if err := get(ctx, api, "list namespaces", "/api/v1/namespaces", query, &list); err != nil {
		return nil, err
	}
	for _, old := range list.Items {
		name := old.Metadata.Name
		if now.Sub(old.Metadata.CreationTimestamp) < leftAfter || !strings.HasPrefix(name, madeName+"-") {
			continue
		}
		_, one := api.Call(ctx, kubeapi.Request{What: "remove namespace " + name, Method: http.MethodDelete, Path: "/api/v1/namespaces/" + name})
		if one == nil {
			removed = append(removed, name)
		}
		err = errors.Join(err, one)
	}
	return removed, err
}

// pod is what we read of a pod.
type pod struct {
	object
	Status struct {
		Phase             string
		PodIP             string
		Reason, Message   string
		Conditions        []struct{ Type, Status string }
		ContainerStatuses []struct {
			State struct {
				Waiting    *struct{ Reason, Message string }
				Terminated *struct {
					Reason   string
					ExitCode int
				}
			}
		}
	}
}

func (p pod) ready() bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c struct{ Type, Status string }) bool { return c.Type == "Ready" && c.Status == "True" })
}

func (s *Site) pods(ctx context.Context) (map[string]pod, error) {
	var list struct{ Items []pod }
	if err := get(ctx, s.api, "list pods", s.path("pods"), nil, &list); err != nil {
		return nil, err
	}
	pods := map[string]pod{}
	for _, p := range list.Items {
		pods[p.Metadata.Name] = p
	}
	return pods, nil
}

// why says what a pod that does not run waits for: what its last Event says, if
// we may look.
func (s *Site) why(ctx context.Context, p pod) string {
	var list struct {
		Items []struct{ Reason, Message string }
	}
	query := url.Values{"fieldSelector": {"type=Warning,involvedObject.name=" + p.Metadata.Name}}
	if err := get(ctx, s.api, "list events", s.path("events"), query, &list); err == nil && len(list.Items) > 0 {
		last := list.Items[len(list.Items)-1]
		return "its pod does not start: " + last.Reason + ": " + last.Message
	}
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil:
			return "its pod does not start: " + strings.TrimSuffix(c.State.Waiting.Reason+": "+c.State.Waiting.Message, ": ")
		case c.State.Terminated != nil:
			return "its probe ended: " + c.State.Terminated.Reason + ", exit code " + strconv.Itoa(c.State.Terminated.ExitCode)
		}
	}
	state := strings.TrimSuffix(cmp.Or(p.Status.Reason, p.Status.Phase, "of unknown state")+": "+p.Status.Message, ": ")
	return "its pod is " + state
}

func (s *Site) path(kind string) string { return "/api/v1/namespaces/" + s.Namespace + "/" + kind }

func (s *Site) create(ctx context.Context, what, path string, body, made any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	answer, err := s.api.Call(ctx, kubeapi.Request{What: what, Method: http.MethodPost, Path: path, Body: text})
	if err != nil || made == nil {
		return err
	}
	if err := json.Unmarshal(answer, made); err != nil {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	return nil
}

func get(ctx context.Context, api API, what, path string, query url.Values, into any) error {
	answer, err := api.Call(ctx, kubeapi.Request{What: what, Method: http.MethodGet, Path: path, Query: query})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fault.New(fault.Internal, "%s: %w", what, err)
	}
	return nil
}

// pause waits before something is looked at again.
func pause(ctx context.Context) error {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
