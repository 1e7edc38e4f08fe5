// SPDX-License-Identifier: Apache-2.0

// Package policy asks a real API server, with the manifest applied, what the
// token of an agent may do: everything for its own node, and nothing for
// another's.
package policy

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

const (
	manifest = "../../../deploy/ocicat.yaml"
	agents   = "/api/v1/namespaces/kube-system"
	pools    = "/apis/projectcalico.org/v3/ippools"
	blocks   = "/apis/projectcalico.org/v3/ipamblocks"
	claims   = "/apis/projectcalico.org/v3/blockaffinities"
	handles  = "/apis/projectcalico.org/v3/ipamhandles"
	beats    = "/apis/ocicat.net/v1/heartbeats"
	reports  = "/apis/ocicat.net/v1/nodestatuses"
	merge    = "application/merge-patch+json"
)

type object = map[string]any

// world is a server with the manifest, two nodes with a pod and an agent each.
type world struct {
	*testing.T
	server *apiserver.Server
	admin  *apiserver.Client
	n1     *apiserver.Client // as the agent of node n1
}

func newWorld(t *testing.T) world {
	s := apiserver.Start(t)
	w := world{T: t, server: s, admin: s.Admin()}
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, again := range []string{"", " again"} {
		for _, refusal := range w.admin.Apply(text) {
			t.Errorf("apply%s: %s", again, refusal)
		}
	}
	for _, node := range []string{"n1", "n2"} {
		w.admin.Must(http.MethodPost, "/api/v1/nodes", "", object{"metadata": object{"name": node, "labels": object{"rack": "a"}}})
		w.pod("ocicat-"+node, node, "ocicat-node")
		w.pod("web-"+node, node, "ocicat-node")
	}
	w.n1 = s.As(w.token("ocicat-n1"))
	w.until("definitions are served", func() bool {
		for _, path := range []string{pools, blocks, claims, handles, beats, reports} {
			if !w.admin.Try(http.MethodGet, path, "", nil).OK() {
				return false
			}
		}
		return true
	})
	// The server compiles a policy some time after it was applied.
	w.until("policies are in force", func() bool {
		return strings.Contains(w.n1.Try(http.MethodPatch, "/api/v1/nodes/n2/status", merge, object{"metadata": object{"annotations": object{"projectcalico.org/x": "y"}}}).Message(), "ocicat-node-nodes") &&
			strings.Contains(w.n1.Try(http.MethodPost, blocks, "", w.block("10.0.0.0/30", "n2")).Message(), "ocicat-node-blocks") &&
			strings.Contains(w.n1.Try(http.MethodPost, claims, "", w.claim("n2", "10.0.0.0/30")).Message(), "ocicat-node-affinities") &&
			strings.Contains(w.n1.Try(http.MethodPost, beats, "", object{"apiVersion": "ocicat.net/v1", "kind": "Heartbeat", "metadata": object{"name": "n2"}, "spec": object{}}).Message(), "ocicat-node-reports") &&
			strings.Contains(w.n1.Try(http.MethodPost, pools, "", w.pool("mine")).Message(), "ocicat-node-pools") &&
			strings.Contains(w.n1.Try(http.MethodPatch, agents+"/pods/web-n2/status", merge, annotate("cni.projectcalico.org/podIP", "1")).Message(), "ocicat-node-pods")
	})
	return w
}

// until waits for what the server does in its own time.
func (w world) until(what string, holds func() bool) {
	w.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(end) {
			w.Fatalf("%s: not within a minute", what)
		}
	}
}

// token is one of the agents' account, bound to a pod as the kubelet asks for
// it, or to nothing where pod is "".
func (w world) token(pod string) string {
	w.Helper()
	spec := object{"expirationSeconds": 3600}
	if pod != "" {
		spec["boundObjectRef"] = object{"apiVersion": "v1", "kind": "Pod", "name": pod}
	}
	var got struct{ Status struct{ Token string } }
	w.admin.Must(http.MethodPost, agents+"/serviceaccounts/ocicat-node/token", "", object{"spec": spec}).Into(w.T, &got)
	return got.Status.Token
}

func (w world) pod(name, node, account string) {
	w.admin.Must(http.MethodPost, agents+"/pods", "", object{"metadata": object{"name": name, "labels": object{"app": "web"}}, "spec": object{
		"nodeName": node, "serviceAccountName": account, "containers": []object{{"name": "c", "image": "i"}},
	}})
}

func annotate(key string, value any) object {
	return object{"metadata": object{"annotations": object{key: value}}}
}

func (w world) pool(name string) object {
	return object{"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": object{"name": name}, "spec": object{
		"cidr": "10.0.0.0/16", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": true, "nodeSelector": "all()",
	}}
}

func (w world) claim(node, cidr string) object {
	return object{"apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity", "metadata": object{"name": node + "-" + dashed(cidr)}, "spec": object{
		"node": node, "cidr": cidr, "state": "pending", "type": "host", "deleted": false,
	}}
}

// block is a block of four addresses; holders are the nodes of those that hold
// its first ordinals, "" for a free one, "resting" for one that was released.
func (w world) block(cidr, owner string, holders ...string) object {
	spec := object{"cidr": cidr, "deleted": false, "strictAffinity": false, "sequenceNumber": 7, "sequenceNumberForAllocation": object{}}
	allocations, free, attributes := []any{}, []int{}, []any{}
	for n := range 4 {
		if n >= len(holders) || holders[n] == "" {
			allocations, free = append(allocations, nil), append(free, n)
			continue
		}
		allocations = append(allocations, len(attributes))
		if holders[n] == "resting" {
			attributes = append(attributes, object{"releasedAt": "2026-11-22T10:00:00Z"})
			continue
		}
		spec["sequenceNumberForAllocation"].(object)[fmt.Sprint(n)] = 7
		attributes = append(attributes, object{"handle_id": "k8s-pod-network." + holders[n], "secondary": object{"node": holders[n], "pod": "p", "namespace": "default"}})
	}
	spec["allocations"], spec["unallocated"], spec["attributes"] = allocations, free, attributes
	if owner != "" {
		spec["affinity"] = "host:" + owner
	}
	return object{"apiVersion": "projectcalico.org/v3", "kind": "IPAMBlock", "metadata": object{"name": dashed(cidr)}, "spec": spec}
}

func dashed(cidr string) string { return strings.NewReplacer(".", "-", "/", "-").Replace(cidr) }

// allowed and refused check one answer. A refusal must be a policy's, or RBAC's
// where rbac is in its words.
func (w world) allowed(what string, a apiserver.Answer) {
	w.Helper()
	if !a.OK() {
		w.Errorf("%s: refused: %s", what, a.Message())
	}
}

func (w world) refused(what, why string, a apiserver.Answer) {
	w.Helper()
	if a.Status != http.StatusForbidden && a.Status != http.StatusUnprocessableEntity || !strings.Contains(a.Message(), why) {
		w.Errorf("%s: want a refusal that says %q: %d: %s", what, why, a.Status, a.Message())
	}
}

func TestAgentWritesItsOwnNode(t *testing.T) {
	w := newWorld(t)
	w.Run("node", func(t *testing.T) { w.with(t).node() })
	w.Run("pods", func(t *testing.T) { w.with(t).pods() })
	w.Run("pools", func(t *testing.T) { w.with(t).defaultPool() })
	w.Run("reports", func(t *testing.T) { w.with(t).reports() })
	w.Run("affinities", func(t *testing.T) { w.with(t).affinities() })
	w.Run("blocks", func(t *testing.T) { w.with(t).blocks() })
	w.Run("tokens", func(t *testing.T) { w.with(t).tokens() })
	w.Run("rights", func(t *testing.T) { w.with(t).rights() })
}

func (w world) with(t *testing.T) world {
	w.T = t
	return w
}

func (w world) patch(path, mime string, body any) apiserver.Answer {
	return w.n1.Try(http.MethodPatch, path, mime, body)
}

func (w world) node() {
	own, other := "/api/v1/nodes/n1/status", "/api/v1/nodes/n2/status"
	const strategic = "application/strategic-merge-patch+json"
	condition := func(kind string) object {
		return object{"status": object{"conditions": []object{{"type": kind, "status": "False"}}}}
	}
	w.allowed("own annotation", w.patch(own, merge, annotate("projectcalico.org/IPv4Address", "192.0.2.1/24")))
	w.allowed("own annotation again", w.patch(own, merge, annotate("projectcalico.org/IPv4Address", nil)))
	w.allowed("own annotation of ours", w.patch(own, merge, annotate("ocicat.net/drain", "")))
	w.allowed("own condition", w.patch(own, strategic, condition("NetworkUnavailable")))
	w.refused("other's annotation", `agent of node "n1" may change its own Node only`, w.patch(other, merge, annotate("projectcalico.org/IPv4Address", "192.0.2.1/24")))
	w.refused("foreign annotation", "annotations of projectcalico.org and ocicat.net only", w.patch(own, merge, annotate("example.org/x", "y")))
	w.refused("own label", "NetworkUnavailable of its Node only", w.patch(own, merge, object{"metadata": object{"labels": object{"rack": "b"}}}))
	w.refused("condition Ready", "NetworkUnavailable of its Node only", w.patch(own, strategic, condition("Ready")))
	w.refused("addresses", "NetworkUnavailable of its Node only", w.patch(own, strategic, object{"status": object{"addresses": []object{{"type": "InternalIP", "address": "192.0.2.9"}}}}))
	w.refused("the Node itself", "cannot patch resource", w.patch("/api/v1/nodes/n1", merge, annotate("projectcalico.org/IPv4Address", "192.0.2.1/24")))
	w.refused("taints", "cannot patch resource", w.patch("/api/v1/nodes/n1", merge, object{"spec": object{"unschedulable": true}}))
}

func (w world) pods() {
	own, other := agents+"/pods/web-n1/status", agents+"/pods/web-n2/status"
	w.allowed("own pod", w.patch(own, merge, annotate("cni.projectcalico.org/podIP", "10.0.0.1/32")))
	w.allowed("own pod again", w.patch(own, merge, annotate("cni.projectcalico.org/podIP", "")))
	w.refused("other's pod", "pods on its own node only", w.patch(other, merge, annotate("cni.projectcalico.org/podIP", "10.0.0.1/32")))
	w.refused("foreign annotation", "annotations of cni.projectcalico.org", w.patch(own, merge, annotate("example.org/x", "y")))
	w.refused("label", "annotations of cni.projectcalico.org", w.patch(own, merge, object{"metadata": object{"labels": object{"app": "db"}}}))
	w.refused("status", "annotations of cni.projectcalico.org", w.patch(own, merge, object{"status": object{"phase": "Failed"}}))
	w.refused("delete", "cannot delete resource", w.n1.Try(http.MethodDelete, agents+"/pods/web-n1", "", nil))
}

func (w world) defaultPool() {
	w.refused("a pool of another name", "default-ipv4-ippool only", w.n1.Try(http.MethodPost, pools, "", w.pool("mine")))
	w.allowed("the default pool", w.n1.Try(http.MethodPost, pools, "", w.pool("default-ipv4-ippool")))
	w.allowed("its change", w.patch(pools+"/default-ipv4-ippool", merge, object{"spec": object{"natOutgoing": false}}))
	other := w.pool("other")
	other["spec"].(object)["cidr"] = "10.1.0.0/16"
	w.admin.Must(http.MethodPost, pools, "", other)
	w.refused("another pool's change", "cannot patch resource", w.patch(pools+"/other", merge, object{"spec": object{"disabled": true}}))
	w.refused("its deletion", "cannot delete resource", w.n1.Try(http.MethodDelete, pools+"/default-ipv4-ippool", "", nil))
}

func (w world) reports() {
	beat := func(node string) object {
		return object{"apiVersion": "ocicat.net/v1", "kind": "Heartbeat", "metadata": object{"name": node}, "spec": object{"count": 1}}
	}
	report := func(node string) object {
		return object{"apiVersion": "ocicat.net/v1", "kind": "NodeStatus", "metadata": object{"name": node}, "status": object{"heartbeat": "2026-11-22T10:00:00Z", "agent": object{}}}
	}
	for path, make := range map[string]func(string) object{beats: beat, reports: report} {
		w.admin.Must(http.MethodPost, path, "", make("n2"))
		w.allowed("own "+path, w.n1.Try(http.MethodPost, path, "", make("n1")))
		w.allowed("own again", w.patch(path+"/n1", merge, make("n1")))
		w.refused("other's "+path, "own node only", w.patch(path+"/n2", merge, annotate("a", "b")))
		w.refused("made up "+path, "own node only", w.n1.Try(http.MethodPost, path, "", make("n3")))
	}
}

func (w world) affinities() {
	w.allowed("own claim", w.n1.Try(http.MethodPost, claims, "", w.claim("n1", "10.0.1.0/30")))
	w.allowed("own state", w.patch(claims+"/n1-10-0-1-0-30", merge, object{"spec": object{"state": "confirmed"}}))
	w.refused("own CIDR", "does not change", w.patch(claims+"/n1-10-0-1-0-30", merge, object{"spec": object{"cidr": "10.0.2.0/30"}}))
	w.refused("given away", "own node only", w.patch(claims+"/n1-10-0-1-0-30", merge, object{"spec": object{"node": "n2"}}))
	w.admin.Must(http.MethodPost, claims, "", w.claim("n2", "10.0.2.0/30"))
	w.refused("other's claim", "own node only", w.n1.Try(http.MethodPost, claims, "", w.claim("n2", "10.0.3.0/30")))
	w.refused("other's state", "own node only", w.patch(claims+"/n2-10-0-2-0-30", merge, object{"spec": object{"state": "pendingDeletion"}}))
	w.refused("taken from another", "own node only", w.patch(claims+"/n2-10-0-2-0-30", merge, object{"spec": object{"node": "n1"}}))
	w.refused("other's deletion", "own node only", w.n1.Try(http.MethodDelete, claims+"/n2-10-0-2-0-30", "", nil))
	w.admin.Must(http.MethodPatch, claims+"/n2-10-0-2-0-30", merge, object{"spec": object{"deleted": true}})
	w.allowed("finish another's deletion", w.n1.Try(http.MethodDelete, claims+"/n2-10-0-2-0-30", "", nil))
	w.allowed("own deletion", w.n1.Try(http.MethodDelete, claims+"/n1-10-0-1-0-30", "", nil))
}

// tokens are those of an agent that no kubelet asked for.
func (w world) tokens() {
	nobody := w.server.As(w.token(""))
	w.refused("a token without a node", "own Node only", nobody.Try(http.MethodPatch, "/api/v1/nodes/n1/status", merge, annotate("projectcalico.org/x", "y")))
	w.refused("a token without a node", "blocks of its own only", nobody.Try(http.MethodPost, blocks, "", w.block("10.9.0.0/30", "n1")))
	w.allowed("people are not concerned", w.admin.Try(http.MethodPatch, "/api/v1/nodes/n2/status", merge, annotate("projectcalico.org/x", "y")))
}

// rights are what RBAC alone refuses an agent.
func (w world) rights() {
	for _, path := range []string{agents + "/secrets", "/api/v1/secrets", agents + "/configmaps", "/apis/apps/v1/daemonsets"} {
		w.refused("list "+path, "cannot list resource", w.n1.Try(http.MethodGet, path, "", nil))
	}
	for _, path := range []string{"/api/v1/nodes", "/api/v1/namespaces", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "/apis/networking.k8s.io/v1/networkpolicies", pools, blocks, claims, handles, beats, reports} {
		w.allowed("list "+path, w.n1.Try(http.MethodGet, path, "", nil))
	}
	w.refused("a pod of its own", "cannot create resource", w.n1.Try(http.MethodPost, agents+"/pods", "", object{}))
	w.refused("a token of its own", "cannot create resource", w.n1.Try(http.MethodPost, agents+"/serviceaccounts/ocicat-node/token", "", object{}))
}
