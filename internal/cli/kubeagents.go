// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/portforward"
)

// guest is the service account as which agents see us, by its name in their
// namespace. The ClusterRole of the same name lets people come as it.
type guest string

// The guests of agents.
const (
	tracerGuest guest = "ocicat-tracer" // looks and traces
	adminGuest  guest = "ocicat-admin"  // also drains
)

// agentSelector finds the agents' pods.
const agentSelector = "k8s-app=ocicat-node"

// Defaults of agents, and the variable of theirs that says otherwise.
const (
	agentPort    = 9098
	agentPortVar = "OCICAT_ADMINPORT"
)

// agentLimit is how long an agent behind the API server may take to answer.
const agentLimit = 5 * time.Second

// tokenLife is how long a token is good for that shows agents who comes: the
// shortest the API server makes.
const tokenLife = 10 * time.Minute

// kubeAgents reaches the agents of a Kubernetes cluster by port-forward, with
// short-lived tokens that are kept in memory alone: no agent sees the user's
// own credentials.
type kubeAgents struct {
	client *kubeapi.Client
	tokens map[string]string // by the path they were made at
}

// kubeDoors are the agents of the cluster.
func (g *globals) kubeDoors(ctx context.Context, where *kubePlace, as guest) ([]agentDoor, error) {
	if _, err := g.kubeAPI(ctx, where); err != nil {
		return nil, err
	}
	pods, err := g.agents.pods(ctx)
	if err != nil {
		return nil, wantsRole(err, as)
	}
	if g.node != "" {
		pod, ok := pods[g.node]
		if !ok {
			return nil, unknownNode(g.node, slices.Sorted(maps.Keys(pods)))
		}
		pods = map[string]agentPod{g.node: pod}
	}
	var doors []agentDoor
	for _, node := range slices.SortedFunc(maps.Keys(pods), compareNatural) {
		door, err := g.agents.door(ctx, pods[node], as)
		if err != nil {
			return nil, wantsRole(err, as)
		}
		doors = append(doors, door)
	}
	return doors, nil
}

// kubeAPI is the way to the cluster, which is opened once.
func (g *globals) kubeAPI(ctx context.Context, where *kubePlace) (*kubeAgents, error) {
	if g.agents == nil {
		client, err := where.connect(ctx)
		if err != nil {
			return nil, err
		}
		g.agents = &kubeAgents{client, map[string]string{}}
		g.ends = append(g.ends, client.Close)
	}
	return g.agents, nil
}

// agentPod is what we read of an agent's pod.
type agentPod struct {
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		Deleted   string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		NodeName   string `json:"nodeName"`
		Containers []struct {
			Image string `json:"image"`
			Env   []struct {
				Name  string `json:"name"`
				Value string `json:"value"`
			} `json:"env"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase  string `json:"phase"`
		HostIP string `json:"hostIP"`
	} `json:"status"`
}

// running says whether the pod can be asked, as far as the API server knows.
func (p agentPod) running() bool { return p.Status.Phase == "Running" && p.Metadata.Deleted == "" }

// port is where its agent listens.
func (p agentPod) port() uint16 {
	for _, container := range p.Spec.Containers {
		for _, v := range container.Env {
			if port, err := strconv.ParseUint(v.Value, 10, 16); v.Name == agentPortVar && err == nil {
				return uint16(port)
			}
		}
	}
	return agentPort
}

// pods are the agents' pods by node: of two the one that runs.
func (k *kubeAgents) pods(ctx context.Context) (map[string]agentPod, error) {
	source := kubeapi.Source{Kind: "agents' pods", Path: "/api/v1/pods", Query: url.Values{"labelSelector": {agentSelector}}}
	entries, _, err := k.client.List(ctx, source, "")
	if err != nil {
		return nil, err
	}
	pods := map[string]agentPod{}
	for _, e := range entries {
		var pod agentPod
		if err := json.Unmarshal(e.Value, &pod); err != nil {
			return nil, fault.New(fault.Internal, "read pod %s: %w", e.Key.Name, err)
		}
		node := pod.Spec.NodeName
		if other, ok := pods[node]; node != "" && (!ok || !other.running()) {
			pods[node] = pod
		}
	}
	if len(pods) == 0 {
		return nil, fault.Hint(fault.New(fault.NotFound, "find agents: the cluster has no pod with label %s", agentSelector), "Is Ocicat installed there? --context names another cluster.")
	}
	return pods, nil
}

// door is the way to one agent.
func (k *kubeAgents) door(ctx context.Context, pod agentPod, as guest) (agentDoor, error) {
	door := agentDoor{node: pod.Spec.NodeName, limit: agentLimit, as: as}
	door.addr, _ = netip.ParseAddr(pod.Status.HostIP) // a node without address has none yet
	namespace, name := pod.Metadata.Namespace, pod.Metadata.Name
	if !pod.running() {
		state := pod.Status.Phase
		if pod.Metadata.Deleted != "" {
			state = "being deleted"
		}
		door.away = fault.New(fault.Unavailable, "its agent's pod %s/%s is %s", namespace, name, cmp.Or(state, "of unknown state"))
		return door, nil
	}
	token, err := k.token(ctx, namespace, as)
	if err != nil {
		return door, err
	}
	connect := func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, agentLimit)
		defer cancel()
		return portforward.Dial(ctx, k.client.Upgrade, namespace, name, pod.port())
	}
	door.client = admin.DialBy(door.node, connect, func() string { return token })
	return door, nil
}

// token is one that shows agents of a namespace that we are a guest.
func (k *kubeAgents) token(ctx context.Context, namespace string, as guest) (string, error) {
	path := fmt.Sprintf("/api/v1/namespaces/%s/serviceaccounts/%s/token", namespace, as)
	if token := k.tokens[path]; token != "" {
		return token, nil
	}
	body := fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":[%q],"expirationSeconds":%d}}`, admin.Audience, int(tokenLife.Seconds()))
	what := fmt.Sprintf("make a token of ServiceAccount %s/%s", namespace, as)
	data, err := k.client.Call(ctx, kubeapi.Request{What: what, Method: http.MethodPost, Path: path, Body: []byte(body)})
	if fault.Is(err, fault.NotFound) {
		return "", fault.Hint(err, "Install it: it is in deploy/ocicat.yaml, and in the chart with rbac.userRoles.")
	}
	if err != nil {
		return "", err
	}
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Status.Token == "" {
		return "", fault.New(fault.Internal, "%s: the answer holds none", what)
	}
	k.tokens[path] = answer.Status.Token
	return answer.Status.Token, nil
}

// lacksRole is the error of somebody who may not come to agents as a guest.
type lacksRole struct {
	err error
	as  guest
}

func (l lacksRole) Error() string { return l.err.Error() }
func (l lacksRole) Unwrap() error { return l.err }

// wantsRole adds to an error of somebody who lacks a right which role has it.
func wantsRole(err error, as guest) error {
	if !kubeapi.IsForbidden(err) {
		return err
	}
	return lacksRole{err, as}
}

// roleHint names the role to ask for; of people who do not come to agents only
// the right to look is known to be missing.
func roleHint(err error) string {
	var lacks lacksRole
	if errors.As(err, &lacks) {
		return fmt.Sprintf("Ask an administrator of the cluster for the ClusterRole %s; docs/security.md says how to bind it.", lacks.as)
	}
	return "Ask an administrator of the cluster for the ClusterRole ocicat-viewer, or ocicat-admin to change something; docs/security.md says how to bind them."
}
