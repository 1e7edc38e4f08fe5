// SPDX-License-Identifier: Apache-2.0

// Package storeopen opens the datastore a configuration names. It alone knows
// all back ends for real use; programs know one store.
package storeopen

import (
	"log/slog"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/internal/store/kube"
)

// Choice says which datastore.
type Choice struct {
	// Kubernetes is the API server that KUBECONFIG names, or that of the pod we
	// run in; otherwise it is etcd.
	Kubernetes bool
	// Client is the client to speak to Kubernetes with, so that a program has
	// one connection; default a new one. The store closes it.
	Client *kubeapi.Client
	// Brief leaves out of the Nodes in Kubernetes' lists what agents do not need
	// of other nodes; see kube.Config.
	Brief bool
	// Endpoints are where etcd is, as URLs.
	Endpoints []string
	// Getenv reads the variables that say where and who: ETCD_…, KUBECONFIG,
	// KUBERNETES_SERVICE_… and CALICO_API_GROUP.
	Getenv func(string) string
	// Log gets what no caller of the store sees; default none.
	Log *slog.Logger
}

// Open returns the store. It does not wait for a connection: it fails, as
// Invalid or Unsupported, only where c cannot be used.
func Open(c Choice) (store.Store, error) {
	if !c.Kubernetes {
		if len(c.Endpoints) == 0 {
			return nil, fault.Hint(fault.New(fault.Invalid, "environment variable ETCD_ENDPOINTS: not set"),
				"Name the datastore, as ETCD_ENDPOINTS=http://192.0.2.1:2379, or set DATASTORE_TYPE=kubernetes.")
		}
		return etcd.New(etcd.Config{Endpoints: c.Endpoints, Credentials: etcd.CredentialsFrom(c.Getenv), Log: c.Log})
	}
	client := c.Client
	if client == nil {
		cfg, err := kubeapi.FromEnvironment(c.Getenv)
		if err != nil {
			return nil, err
		}
		cfg.Log = c.Log
		if client, err = kubeapi.New(cfg); err != nil {
			return nil, err
		}
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s, err := kube.New(client, kube.Config{Group: c.Getenv("CALICO_API_GROUP"), Brief: c.Brief, Log: log})
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "environment variable CALICO_API_GROUP: %w", err)
	}
	return s, nil
}
