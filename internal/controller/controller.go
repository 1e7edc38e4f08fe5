// SPDX-License-Identifier: Apache-2.0

// Package controller does on Kubernetes what concerns the whole cluster and no
// agent has the right to: it gives back what nodes hold that are gone, and says
// at each IPPool whether it can be used. Agents without Kubernetes elect one of
// themselves to give back.
//
// Nothing is given back while Calico's own collector runs: that one frees by
// other rules, and nothing here may rest on what another frees.
package controller

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/store"
)

// Config is what a Controller needs.
type Config struct {
	Client *kubeapi.Client
	Store  store.Store
	Name   string // of this replica, in the election and in logs
	// Session tells this run from every other.
	Session string
	// Times are those of the agents' leases; zero for the default.
	Times ipam.Times
	Log   *slog.Logger
}

// Controller is the task. Make one with New.
type Controller struct {
	cfg    Config
	log    *slog.Logger
	locked atomic.Bool // the datastore
}

// New returns a Controller.
func New(cfg Config) *Controller {
	if cfg.Times == (ipam.Times{}) {
		cfg.Times = ipam.DefaultTimes()
	}
	return &Controller{cfg: cfg, log: cfg.Log}
}

// String names the task.
func (*Controller) String() string { return "controller" }

// calico is Calico's collector: a Deployment in one of two namespaces, the
// operator's and the manifest's.
const calico = "calico-kube-controllers"

var calicoNamespaces = []string{"kube-system", "calico-system"}

// Run does both until ctx ends, and collects but while Calico's collector runs.
func (c *Controller) Run(ctx context.Context) error {
	var judging sync.WaitGroup
	defer judging.Wait()
	if s, ok := c.cfg.Store.(lockable); ok {
		judging.Go(func() { s.FollowLock(ctx, c.lockChanged) })
	}
	judging.Go(func() { newPoolStatus(c.cfg.Client, c.cfg.Store, c.log).run(ctx) })
	c.collect(ctx)
	return nil
}

// lockable is a datastore that somebody else may lock, as Calico's migration
// does. It refuses writes of addresses itself while it is locked.
type lockable interface {
	FollowLock(ctx context.Context, changed func(locked bool))
}

// lockChanged hears of the lock.
func (c *Controller) lockChanged(locked bool) {
	c.locked.Store(locked)
	if locked {
		c.log.Warn("the datastore is locked: nothing is freed", "code", problem.StoreLocked)
	}
}

// collect collects but while Calico's collector runs or the datastore is locked.
func (c *Controller) collect(ctx context.Context) {
	var (
		stop    context.CancelFunc
		running sync.WaitGroup
		said    string
	)
	defer running.Wait()
	for {
		other, err := c.other(ctx)
		locked := c.locked.Load()
		switch {
		case err != nil && ctx.Err() == nil:
			c.log.Warn("not known whether Calico's collector runs, so nothing is freed", "error", err)
		case other != "" && said != other:
			c.log.Error("Calico's collector runs: nothing is freed beside it", "deployment", other, "remedy", "kubectl scale deployment -n NAMESPACE "+calico+" --replicas=0, once no calico-node runs any more")
		}
		said = other
		switch may := err == nil && other == "" && !locked; {
		case may && stop == nil:
			var collecting context.Context
			collecting, stop = context.WithCancel(ctx)
			collector := c.collector()
			running.Go(func() { _ = collector.Run(collecting) }) // ends with its context alone
		case !may && stop != nil:
			stop()
			running.Wait()
			stop = nil
		}
		select {
		case <-ctx.Done():
			if stop != nil {
				stop()
			}
			return
		case <-time.After(c.cfg.Times.Beat):
		}
	}
}

func (c *Controller) collector() *ipam.Collector {
	client := ipam.NewStoredClient(c.cfg.Store, func(err error) { c.log.Debug("pool left out", "error", err) })
	return ipam.NewCollector(ipam.CollectorConfig{Client: client, Node: c.cfg.Name, Session: c.cfg.Session, Times: c.cfg.Times, Log: c.log})
}

// other is Calico's collector as "namespace/name", "" for none that runs.
func (c *Controller) other(ctx context.Context) (string, error) {
	for _, namespace := range calicoNamespaces {
		path := "/apis/apps/v1/namespaces/" + namespace + "/deployments/" + calico
		answer, err := c.cfg.Client.Call(ctx, kubeapi.Request{What: "get deployment " + calico, Method: http.MethodGet, Path: path})
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		var deployment struct {
			Spec struct {
				Replicas *int `json:"replicas"` // 1 if not set
			} `json:"spec"`
			Status struct {
				Replicas int `json:"replicas"`
			} `json:"status"`
		}
		if err := json.Unmarshal(answer, &deployment); err != nil {
			return "", fault.New(fault.Internal, "read deployment %s: %w", calico, err)
		}
		if d := deployment; d.Status.Replicas > 0 || d.Spec.Replicas == nil || *d.Spec.Replicas > 0 {
			return namespace + "/" + calico, nil
		}
	}
	return "", nil
}
