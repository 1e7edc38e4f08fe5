// SPDX-License-Identifier: Apache-2.0

// Package kubenode is what an agent asks of Kubernetes, and tells it, beyond the
// datastore: annotations of its own pods and of namespaces, whether policies
// exist that nobody enforces, whose a token is; that the network of its node is
// there, which address a pod has, and what is wrong.
package kubenode

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Prefix is what the annotations we read and write begin with: Calico's.
const Prefix = "cni.projectcalico.org/"

// Config is what a Node needs.
type Config struct {
	Client *kubeapi.Client
	Node   string // name of the Kubernetes Node
	File   string // keeps the annotations of namespaces over a restart; "" for nowhere
	Log    *slog.Logger
}

// Node is one node's part in Kubernetes. Make one with New, then Run it. All
// methods are safe for concurrent use.
type Node struct {
	cfg  Config
	work chan struct{} // wakes the writer

	mu         sync.Mutex
	changed    func() // Problems may say something else
	pods       notes  // of the own node, "namespace/name"
	namespaces notes
	policies   map[string]bool
	serving    bool                     // to be told
	addresses  map[podKey]podAddress    // to be told
	told       map[problemKey]time.Time // when a problem was last there
	events     []problem.Problem        // to be told
}

// notes are what is known of objects, by name.
type notes struct {
	known bool // all there are
	by    map[string]note
}

// note is what pods are served by: annotations that begin with Prefix, and of
// a namespace its labels.
type note struct {
	Annotations map[string]string `json:"annotations,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
}

// New returns a Node with the namespaces' annotations of cfg.File.
func New(cfg Config) *Node {
	n := &Node{
		cfg: cfg, work: make(chan struct{}, 1),
		pods: notes{by: map[string]note{}}, namespaces: notes{by: map[string]note{}},
		policies: map[string]bool{}, addresses: map[podKey]podAddress{}, told: map[problemKey]time.Time{},
	}
	n.recall()
	return n
}

// String names the task.
func (n *Node) String() string { return "kubernetes" }

// Run follows what is asked for and writes what is told, until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	var running sync.WaitGroup
	follow := func(kind store.Kind, path string, query url.Values, take func(store.Update)) {
		running.Go(func() {
			source := kubeapi.Source{Kind: kind, Path: path, Query: query, Decode: trimmed(kind)}
			n.cfg.Client.Follow(ctx, source, take)
		})
	}
	follow("Pod", "/api/v1/pods", url.Values{"fieldSelector": {"spec.nodeName=" + n.cfg.Node}}, n.takePods)
	follow("Namespace", "/api/v1/namespaces", nil, n.takeNamespaces)
	follow("NetworkPolicy", "/apis/networking.k8s.io/v1/networkpolicies", nil, n.takePolicies)
	running.Go(func() { n.write(ctx) })
	running.Wait()
	return nil
}

// trimmed keeps of an object only the annotations that are ours to read: a node
// has hundreds of pods, and all of them whole would be most of our memory.
func trimmed(kind store.Kind) func([]byte) (store.Entry, error) {
	return func(object []byte) (store.Entry, error) {
		e, err := kubeapi.Plain(kind, object)
		if err != nil {
			return e, err
		}
		kept, err := noteOf(object)
		if err == nil {
			e.Value, err = json.Marshal(kept)
		}
		return e, err
	}
}

// noteOf is what is kept of a pod or a namespace.
func noteOf(object []byte) (note, error) {
	var head struct {
		Metadata struct {
			Namespace   string            `json:"namespace"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(object, &head); err != nil {
		return note{}, fault.New(fault.Internal, "read metadata: %w", err)
	}
	kept := note{Annotations: map[string]string{}}
	if head.Metadata.Namespace == "" {
		kept.Labels = head.Metadata.Labels
	}
	for name, value := range head.Metadata.Annotations {
		if strings.HasPrefix(name, Prefix) {
			kept.Annotations[name] = value
		}
	}
	return kept, nil
}

// take brings notes up to an update and reports whether it was one.
func (t *notes) take(u store.Update) bool {
	if u.Err != nil {
		return false
	}
	if u.Full {
		t.known, t.by = true, map[string]note{}
	}
	for _, e := range u.Entries {
		var kept note
		if err := json.Unmarshal(e.Value, &kept); err == nil { // trimmed made it
			t.by[e.Key.Name] = kept
		}
	}
	for _, key := range u.Deleted {
		delete(t.by, key.Name)
	}
	return true
}

func (n *Node) takePods(u store.Update) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods.take(u)
}

func (n *Node) takeNamespaces(u store.Update) {
	n.mu.Lock()
	taken := n.namespaces.take(u)
	n.mu.Unlock()
	if taken {
		n.remember()
	}
}

func (n *Node) takePolicies(u store.Update) {
	n.mu.Lock()
	before := len(n.policies)
	if u.Full {
		n.policies = map[string]bool{}
	}
	for _, e := range u.Entries {
		n.policies[e.Key.Name] = true
	}
	for _, key := range u.Deleted {
		delete(n.policies, key.Name)
	}
	tell := n.changed
	same := len(n.policies) == before
	n.mu.Unlock()
	if !same && tell != nil {
		tell()
	}
}

// OnChange has f called, from another goroutine, when Problems may say something
// else.
func (n *Node) OnChange(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changed = f
}

// Problems are what Kubernetes asks for and nobody does.
func (n *Node) Problems() []problem.Problem {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.policies) == 0 {
		return nil
	}
	return []problem.Problem{problem.New(problem.PolicyIgnored, "", len(n.policies))}
}

// PodAnnotations are a pod's annotations that begin with Prefix. One that is not
// known yet is asked for. Unavailable says that nobody could be asked; a pod
// that is gone is NotFound.
func (n *Node) PodAnnotations(ctx context.Context, namespace, name string) (map[string]string, error) {
	n.mu.Lock()
	kept, known := n.pods.by[namespace+"/"+name]
	n.mu.Unlock()
	if known {
		return kept.Annotations, nil
	}
	kept, err := n.ask(ctx, "pod "+namespace+"/"+name, "/api/v1/namespaces/"+namespace+"/pods/"+name)
	return kept.Annotations, err
}

// NamespaceAnnotations are a namespace's annotations that begin with Prefix.
// Where no answer comes, one that was not there when all were known last has
// none.
func (n *Node) NamespaceAnnotations(ctx context.Context, name string) (map[string]string, error) {
	n.mu.Lock()
	kept, found := n.namespaces.by[name]
	known := n.namespaces.known
	n.mu.Unlock()
	if found {
		return kept.Annotations, nil
	}
	kept, err := n.ask(ctx, "namespace "+name, "/api/v1/namespaces/"+name)
	if err != nil && known {
		return nil, nil
	}
	return kept.Annotations, err
}

// NamespaceLabels are a namespace's labels, never nil without an error. Where
// they are not known and no answer comes that is an error: every namespace has
// a label, its name.
func (n *Node) NamespaceLabels(ctx context.Context, name string) (map[string]string, error) {
	n.mu.Lock()
	kept := n.namespaces.by[name]
	n.mu.Unlock()
	if kept.Labels != nil {
		return kept.Labels, nil
	}
	kept, err := n.ask(ctx, "namespace "+name, "/api/v1/namespaces/"+name)
	if err == nil && kept.Labels == nil {
		kept.Labels = map[string]string{}
	}
	return kept.Labels, err
}

// askTimeout bounds a question that a pod waits for.
const askTimeout = 2 * time.Second

func (n *Node) ask(ctx context.Context, what, path string) (note, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	object, err := n.cfg.Client.Call(ctx, kubeapi.Request{What: "get " + what, Method: http.MethodGet, Path: path})
	if err != nil {
		return note{}, err
	}
	return noteOf(object)
}

// Review says whose a token is by asking the API server.
func (n *Node) Review(ctx context.Context, token, audience string) (string, error) {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"spec": map[string]any{"token": token, "audiences": []string{audience}},
	})
	if err != nil {
		return "", fault.New(fault.Internal, "review token: %w", err)
	}
	answer, err := n.cfg.Client.Call(ctx, kubeapi.Request{What: "review token", Method: http.MethodPost, Path: "/apis/authentication.k8s.io/v1/tokenreviews", Body: body})
	if err != nil {
		return "", err
	}
	var review struct {
		Status struct {
			Authenticated bool     `json:"authenticated"`
			Audiences     []string `json:"audiences"`
			Error         string   `json:"error"`
			User          struct {
				Username string `json:"username"`
			} `json:"user"`
		} `json:"status"`
	}
	if err := json.Unmarshal(answer, &review); err != nil {
		return "", fault.New(fault.Internal, "review token: %w", err)
	}
	if s := review.Status; !s.Authenticated || len(s.Audiences) != 1 || s.Audiences[0] != audience {
		return "", fault.New(fault.NotFound, "nobody's for audience %s: %s", audience, s.Error)
	}
	return review.Status.User.Username, nil
}
