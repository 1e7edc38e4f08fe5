// SPDX-License-Identifier: Apache-2.0

// Package pools asks a real API server, with the manifest applied and the
// controller running with the rights of its account, what it says of pools.
package pools

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/controller"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/storeopen"
	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

const (
	manifest = "../../../deploy/ocicat.yaml"
	pools    = "/apis/projectcalico.org/v3/ippools"
	events   = "/api/v1/namespaces/default/events"
	merge    = "application/merge-patch+json"
	// limit is how long a wrong pool may go unnoticed.
	limit = 2 * time.Second
)

type object = map[string]any

type condition struct {
	Type, Status, Reason, Message, LastTransitionTime string
	ObservedGeneration                                int64
}

// world is a server with the manifest, a node and two controllers.
type world struct {
	*testing.T
	server *apiserver.Server
	admin  *apiserver.Client
	log    *slog.Logger
}

func newWorld(t *testing.T) world {
	w := world{T: t, server: apiserver.Start(t), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	w.admin = w.server.Admin()
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, refusal := range w.admin.Apply(text) {
		t.Error("apply:", refusal)
	}
	w.within(time.Minute, "pools are served", func() bool { return w.admin.Try(http.MethodGet, pools, "", nil).OK() })
	w.admin.Must(http.MethodPost, "/api/v1/nodes", "", object{"metadata": object{"name": "n1", "annotations": object{"projectcalico.org/IPv4Address": "192.168.0.11/24"}}})
	w.pool("default", "172.16.0.0/16")
	return w
}

// run runs a controller with the rights of its account until the test ends, or
// the returned function is called.
func (w world) run(name string) (stop func()) {
	w.Helper()
	cfg := w.server.Config()
	cfg.Log = w.log
	cfg.Token = w.token()
	client, err := kubeapi.New(cfg)
	if err != nil {
		w.Fatal(err)
	}
	s, err := storeopen.Open(storeopen.Choice{Kubernetes: true, Client: client, Getenv: func(string) string { return "" }, Log: w.log})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		_ = controller.New(controller.Config{Client: client, Store: s, Name: name, Session: name + "/1", Log: w.log}).Run(ctx)
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		_ = s.Close()
	})
	w.Cleanup(stop)
	return stop
}

// token is one of the controller's account.
func (w world) token() string {
	w.Helper()
	var answer struct {
		Status struct{ Token string }
	}
	w.admin.Must(http.MethodPost, "/api/v1/namespaces/kube-system/serviceaccounts/ocicat-controller/token", "",
		object{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": object{"audiences": []string{"https://kubernetes.default.svc"}, "expirationSeconds": 3600}}).Into(w.T, &answer)
	return answer.Status.Token
}

// within waits for what another program does, and returns how long it took.
func (w world) within(d time.Duration, what string, holds func() bool) time.Duration {
	w.Helper()
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(start) > d {
			w.Fatalf("%s: not within %v", what, d)
		}
		<-tick.C
	}
	return time.Since(start)
}

func (w world) pool(name, cidr string) {
	w.Helper()
	w.create(name, object{"cidr": cidr})
}

func (w world) create(name string, spec object) {
	w.Helper()
	w.admin.Must(http.MethodPost, pools, "", object{"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": object{"name": name}, "spec": spec})
}

// ready is the condition Ready of a pool; generation is the pool's.
func (w world) ready(name string) (ready condition, generation int64) {
	w.Helper()
	var pool struct {
		Metadata struct{ Generation int64 }
		Status   struct{ Conditions []condition }
	}
	w.admin.Must(http.MethodGet, pools+"/"+name, "", nil).Into(w.T, &pool)
	for _, c := range pool.Status.Conditions {
		if c.Type == "Ready" {
			return c, pool.Metadata.Generation
		}
	}
	return condition{}, pool.Metadata.Generation
}

// isReady says whether the pool's condition is of its newest generation, and so.
func (w world) isReady(name, status, reason string) bool {
	c, generation := w.ready(name)
	return c.Status == status && c.Reason == reason && c.ObservedGeneration == generation
}

// told are the messages of the events of a pool.
func (w world) told(name string) []string {
	w.Helper()
	var list struct {
		Items []struct{ Reason, Type, Message string }
	}
	w.admin.Must(http.MethodGet, events+"?fieldSelector=involvedObject.kind%3DIPPool%2CinvolvedObject.name%3D"+name, "", nil).Into(w.T, &list)
	var told []string
	for _, e := range list.Items {
		told = append(told, e.Type+" "+e.Reason+" "+e.Message)
	}
	return told
}

// TestPools applies pools that are wrong while two controllers run: each gets
// its condition and one Event in time, and is ready once it is mended.
func TestPools(t *testing.T) {
	w := newWorld(t)
	w.run("c1")
	stop := w.run("c2")
	w.within(20*time.Second, "the first pool is ready", func() bool { return w.isReady("default", "True", "Usable") })
	for _, wrong := range []struct {
		name, code, says string
		spec             object
		mend             object
		reason           string // once mended
		status           string
	}{
		{"services", "OC2008", "10.96.0.0/16", object{"cidr": "10.96.64.0/18"}, object{"spec": object{"disabled": true}}, "Disabled", "False"},
		{"nodes", "OC2001", "192.168.0.0/24 of node n1", object{"cidr": "192.168.0.0/20"}, object{"spec": object{"disabled": true}}, "Disabled", "False"},
		{"selector", "OC2007", "role ==", object{"cidr": "10.1.0.0/16", "nodeSelector": "role == "}, object{"spec": object{"nodeSelector": "role == 'a'"}}, "Usable", "True"},
	} {
		w.create(wrong.name, wrong.spec)
		said := w.within(limit, wrong.name+": condition "+wrong.code, func() bool { return w.isReady(wrong.name, "False", wrong.code) })
		told := said + w.within(limit-said, wrong.name+": event "+wrong.code, func() bool { return len(w.told(wrong.name)) > 0 })
		if c, _ := w.ready(wrong.name); !strings.HasPrefix(c.Message, wrong.code+": ") || !strings.Contains(c.Message, wrong.says) {
			t.Errorf("%s: condition says %q, want %q in it", wrong.name, c.Message, wrong.says)
		}
		w.admin.Must(http.MethodPatch, pools+"/"+wrong.name, merge, wrong.mend)
		mended := w.within(limit, wrong.name+" mended", func() bool { return w.isReady(wrong.name, wrong.status, wrong.reason) })
		t.Logf("%s: condition after %v, event after %v, mended after %v", wrong.name, said, told, mended)
	}

	w.pool("later", "172.16.128.0/20")
	w.within(limit, "pools overlap", func() bool { return w.isReady("later", "False", "OC2004") })
	if !w.isReady("default", "True", "Usable") {
		t.Error("the earlier of two that overlap is not ready")
	}
	w.within(limit, "an event of it", func() bool { return len(w.told("later")) > 0 })
	w.admin.Must(http.MethodDelete, pools+"/default", "", nil)
	w.within(limit, "the other one is gone", func() bool { return w.isReady("later", "True", "Usable") })

	stop() // one controller alone, and it sees the server go and come back
	w.server.Kill()
	w.server.Resume()
	w.pool("default", "172.16.0.0/16")
	w.within(20*time.Second, "wrong again", func() bool { return w.isReady("default", "True", "Usable") && w.isReady("later", "False", "OC2004") })
	w.admin.Must(http.MethodDelete, pools+"/default", "", nil)
	w.within(limit, "right again", func() bool { return w.isReady("later", "True", "Usable") })
	for _, name := range []string{"services", "nodes", "selector"} { // two controllers saw each
		if told := w.told(name); len(told) != 1 || !strings.HasPrefix(told[0], "Warning OC2") {
			t.Errorf("events of %s: %s", name, strings.Join(told, "\n"))
		}
	}
	if told := w.told("default"); len(told) != 0 {
		t.Error("events of a pool that is right:", told)
	}
	w.columns()
}

// columns asks for the table that kubectl get shows.
func (w world) columns() {
	w.Helper()
	client, err := kubeapi.New(w.server.Config())
	if err != nil {
		w.Fatal(err)
	}
	defer client.Close()
	answer, err := client.Call(w.Context(), kubeapi.Request{What: "get table", Method: http.MethodGet, Path: pools + "/later", Accept: "application/json;as=Table;g=meta.k8s.io;v=v1"})
	if err != nil {
		w.Fatal(err)
	}
	var table struct {
		Columns []struct{ Name string } `json:"columnDefinitions"`
		Rows    []struct{ Cells []any } `json:"rows"`
	}
	if err := json.Unmarshal(answer, &table); err != nil || len(table.Rows) != 1 {
		w.Fatalf("%v: %s", err, answer)
	}
	for i, column := range table.Columns {
		if column.Name == "Ready" && table.Rows[0].Cells[i] == "True" {
			return
		}
	}
	w.Errorf("no column Ready that says True: %s", answer)
}
