// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"flag"
	"os"
	"os/signal"
	"syscall"

	"github.com/ocicat-net/ocicat/internal/controller"
	"github.com/ocicat-net/ocicat/internal/env"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/storeopen"
)

// runController is "ocicatd controller": the cluster's duties on Kubernetes.
func runController(args []string) error {
	lease, format := ipam.LeaseTime, "text"
	f := flag.NewFlagSet("ocicatd controller", flag.ContinueOnError)
	f.DurationVar(&lease, "lease-time", lease, "the agents' -lease-time (also OCICAT_LEASE_TIME)")
	f.StringVar(&format, "log-format", format, "text or json")
	if text := os.Getenv("OCICAT_LEASE_TIME"); text != "" {
		if err := f.Set("lease-time", text); err != nil {
			return fault.Hint(fault.New(fault.Invalid, "environment variable OCICAT_LEASE_TIME: %q: not a duration", text), "Write it as 1h or 90m.")
		}
	}
	if err := f.Parse(args); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	if err := ipam.TimesFor(lease).Validate(); err != nil {
		return err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return fault.New(fault.Internal, "read hostname: %w", err)
	}
	e, _, err := env.Parse(os.Environ(), hostname)
	if err != nil {
		return err
	}
	if !e.Kubernetes {
		return fault.Hint(fault.New(fault.Invalid, "ocicatd controller: it is for Kubernetes"), "Set DATASTORE_TYPE=kubernetes. With etcd the agents do its work.")
	}
	log := newLog(options{format: format}, e.LogLevel)
	api, err := kubeapi.FromEnvironment(os.Getenv)
	if err != nil {
		return err
	}
	api.Log = log
	client, err := kubeapi.New(api)
	if err != nil {
		return err
	}
	s, err := storeopen.Open(storeopen.Choice{Kubernetes: true, Client: client, Getenv: os.Getenv, Log: log})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.Info("controller started", "name", hostname)
	return controller.New(controller.Config{
		Client: client, Store: s, Name: hostname, Session: hostname + "/" + rand.Text(), Times: ipam.TimesFor(lease), Log: log,
	}).Run(ctx)
}
