// SPDX-License-Identifier: Apache-2.0

// Command ocicat is the command line of an Ocicat cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/ocicat-net/ocicat/internal/cli"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cfg := cli.System()
	cfg.OpenStore = func(_ context.Context, endpoints []string) (store.Store, error) {
		return etcd.New(etcd.Config{Endpoints: endpoints, Credentials: etcd.CredentialsFrom(os.Getenv).For(endpoints)})
	}
	code := cli.Run(ctx, cfg, os.Args[1:])
	stop()
	os.Exit(code)
}
