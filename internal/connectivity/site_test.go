// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
)

// fakeAPI is an API server whose kubelets start no pod.
type fakeAPI struct {
	calls      []string // all but GET
	bodies     map[string]string
	answers    map[string]string // by path, of GET
	namespaces map[string]bool
	terminates int    // how many looks a removed namespace stays
	made       string // name of the namespace that was made
	lost       error  // instead of the answer to making it, if set
}

// afterMaking answers who made a namespace.
func (f *fakeAPI) afterMaking(q kubeapi.Request) ([]byte, error) {
	if f.lost != nil {
		return nil, fault.New(fault.Unavailable, "%s: %w", q.What, f.lost)
	}
	return []byte(`{}`), nil
}

func (f *fakeAPI) Call(ctx context.Context, q kubeapi.Request) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, fault.New(fault.Unavailable, "%s: %w", q.What, ctx.Err())
	}
	if f.made != "" { // tests call the one that was made so
		q.Path = strings.Replace(q.Path, "/namespaces/"+f.made, "/namespaces/made", 1)
	}
	if q.Method != http.MethodGet {
		f.calls = append(f.calls, q.Method+" "+q.Path)
		f.bodies[q.Path] += string(q.Body)
	}
	name, isOne := strings.CutPrefix(q.Path, "/api/v1/namespaces/")
	switch {
	case q.Method == http.MethodPost && q.Path == "/api/v1/namespaces":
		var body object
		if err := json.Unmarshal(q.Body, &body); err != nil {
			return nil, err
		}
		f.made = body.Metadata.Name
		f.namespaces["made"] = true
		return f.afterMaking(q)
	case q.Method == http.MethodPost && strings.HasSuffix(q.Path, "/services"):
		return []byte(`{"spec":{"clusterIP":"10.96.0.9"}}`), nil
	case q.Method == http.MethodDelete:
		delete(f.namespaces, name)
	case isOne && !strings.Contains(name, "/") && !f.namespaces[name]:
		if f.terminates--; f.terminates < 0 {
			return nil, fault.New(fault.NotFound, "%s: not found", q.What)
		}
	case f.answers[q.Path] != "":
		return []byte(f.answers[q.Path]), nil
	}
	return []byte(`{}`), nil
}

func (*fakeAPI) Upgrade(context.Context, string, http.Header) (net.Conn, error) {
	return nil, errors.New("nobody there")
}

func newFakeAPI() *fakeAPI {
	return &fakeAPI{bodies: map[string]string{}, answers: map[string]string{}, namespaces: map[string]bool{}, terminates: 3}
}

func TestNodes(t *testing.T) {
	f := newFakeAPI()
	f.answers["/api/v1/nodes"] = `{"items":[
		{"metadata":{"name":"win","labels":{"kubernetes.io/os":"windows"}},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.4"}],"conditions":[{"type":"Ready","status":"True"}]}},
		{"metadata":{"name":"n2"},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.2"}],"conditions":[{"type":"Ready","status":"Unknown","message":"the kubelet is silent"}]}},
		{"metadata":{"name":"n1"},"status":{"addresses":[{"type":"InternalIP","address":"fd00::1"},{"type":"InternalIP","address":"192.0.2.1"}],"conditions":[{"type":"Ready","status":"True"}]}},
		{"metadata":{"name":"n6"},"status":{"addresses":[{"type":"InternalIP","address":"fd00::6"}],"conditions":[{"type":"Ready","status":"True"}]}}]}`
	nodes, err := Nodes(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	want := []Node{
		{"n1", addr("192.0.2.1"), ""},
		{"n2", addr("192.0.2.2"), "the node is not Ready: the kubelet is silent"},
		{"n6", addr("fd00::6"), "the node has no IPv4 InternalIP"},
		{"win", addr("192.0.2.4"), "the node runs windows"},
	}
	if diff := cmp.Diff(want, nodes, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPodsThatDoNotStart: the reason of the first is the error, all is made
// without rights, and all is removed.
func TestPodsThatDoNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI()
		f.answers["/api/v1/namespaces/made/pods"] = `{"items":[
			{"metadata":{"name":"probe-0"},"status":{"phase":"Pending","containerStatuses":[{"state":{"waiting":{"reason":"ErrImagePull","message":"no such image"}}}]}},
			{"metadata":{"name":"probe-2"},"status":{"phase":"Pending"}}]}`
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var told []string
		nodes := []Node{{Name: "a"}, {Name: "b", Out: "the node is not Ready"}, {Name: "c"}}
		site, err := Open(ctx, f, nodes, "image:1", false, func(ready, of int) { told = append(told, fmt.Sprintf("%d of %d", ready, of)) })
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "node a: its pod does not start: ErrImagePull: no such image") {
			t.Errorf("error %v", err)
		}
		want := map[string]string{"a": "its pod does not start: ErrImagePull: no such image", "b": "the node is not Ready", "c": "its pod is Pending"}
		if diff := cmp.Diff(want, site.Out); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if len(told) < 10 || told[0] != "0 of 2" {
			t.Errorf("told %v", told)
		}
		var pod struct {
			Spec struct {
				NodeName                     string
				AutomountServiceAccountToken *bool
			}
		}
		first, _, _ := strings.Cut(f.bodies["/api/v1/namespaces/made/pods"], "}{")
		_ = json.Unmarshal([]byte(first+"}"), &pod)
		if pod.Spec.NodeName != "a" || pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
			t.Errorf("first pod %+v of %s", pod, first)
		}
		if err := site.Close(context.WithoutCancel(ctx)); err != nil || f.terminates >= 0 {
			t.Errorf("close: %v, %d looks left", err, f.terminates)
		}
		want2 := []string{"POST /api/v1/namespaces", "POST /api/v1/namespaces/made/pods", "POST /api/v1/namespaces/made/pods", "POST /api/v1/namespaces/made/services", "DELETE /api/v1/namespaces/made"}
		if !slices.Equal(f.calls, want2) {
			t.Errorf("calls %v", f.calls)
		}
	})
}

// TestCloseSaysWhatIsLeft: a namespace that does not go is named, with how to
// remove it.
func TestCloseSaysWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeAPI()
		f.terminates = 1000
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		site := &Site{Namespace: "made", api: f}
		if err := site.Close(ctx); err == nil || !strings.Contains(err.Error(), "namespace made is left") || fault.HintOf(err) != "Remove it: kubectl delete namespace made" {
			t.Errorf("%v, hint %q", err, fault.HintOf(err))
		}
	})
}

// TestSweep removes what tests left more than an hour ago, and nothing else.
func TestSweep(t *testing.T) {
	f := newFakeAPI()
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	f.answers["/api/v1/namespaces"] = `{"items":[
		{"metadata":{"name":"ocicat-connectivity-old","creationTimestamp":"2026-02-03T03:00:00Z"}},
		{"metadata":{"name":"ocicat-connectivity-new","creationTimestamp":"2026-02-03T03:30:00Z"}},
		{"metadata":{"name":"production","creationTimestamp":"2025-02-03T03:30:00Z"}}]}`
	removed, err := Sweep(t.Context(), f, now)
	if err != nil || !slices.Equal(removed, []string{"ocicat-connectivity-old"}) || !slices.Equal(f.calls, []string{"DELETE /api/v1/namespaces/ocicat-connectivity-old"}) {
		t.Errorf("removed %v by %v, %v", removed, f.calls, err)
	}
}

// TestNamespaceWithoutAnswer: what a request may have made that nobody
// answered, as after an interrupt, is removed; after a refusal nothing is
// touched.
func TestNamespaceWithoutAnswer(t *testing.T) {
	for _, test := range []struct {
		name  string
		lost  error
		calls int
		left  int // of what the fake made all the same
	}{
		{"interrupted", fmt.Errorf("%w: %w", store.ErrAmbiguous, context.Canceled), 2, 0},
		{"refused", errors.New("there is one of that name"), 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeAPI()
				f.lost = test.lost
				site, err := Open(t.Context(), f, []Node{{Name: "a"}}, "image:1", false, func(int, int) {})
				if !errors.Is(err, test.lost) {
					t.Errorf("open: %v", err)
				}
				if err := site.Close(t.Context()); err != nil {
					t.Errorf("close: %v", err)
				}
				if len(f.calls) != test.calls || len(f.namespaces) != test.left || !strings.HasPrefix(f.made, madeName+"-") {
					t.Errorf("made %q, left %v by %v", f.made, f.namespaces, f.calls)
				}
			})
		})
	}
}
