// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/kubenode"
)

// namespaceFile says in which namespace a pod runs.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// Service accounts whose tokens open the agent's door at its port: the chart
// makes them beside the agents.
const (
	tracerAccount = "ocicat-tracer"
	adminAccount  = "ocicat-admin"
)

// joinKubernetes makes the agent one of a cluster, whose client is also the
// datastore's.
func joinKubernetes(cfg *agent.Config, door netip.AddrPort) (*kubeapi.Client, error) {
	api, err := kubeapi.FromEnvironment(os.Getenv)
	if err != nil {
		return nil, err
	}
	api.Log = cfg.Log
	client, err := kubeapi.New(api)
	if err != nil {
		return nil, err
	}
	cfg.Kubernetes = kubenode.New(kubenode.Config{
		Client: client, Node: string(cfg.Node), File: filepath.Join(cfg.StateDir, "namespaces.json"), Log: cfg.Log,
	})
	if namespace, err := os.ReadFile(namespaceFile); err == nil { // outside a pod nobody can come by port-forward
		cfg.Admin = door
		account := func(name string) []string {
			return []string{fmt.Sprintf("system:serviceaccount:%s:%s", strings.TrimSpace(string(namespace)), name)}
		}
		cfg.Guests = admin.Guests{Tracers: account(tracerAccount), Admins: account(adminAccount)}
	}
	return client, nil
}
