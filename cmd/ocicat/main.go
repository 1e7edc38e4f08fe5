// SPDX-License-Identifier: Apache-2.0

// Command ocicat is the command line of an Ocicat cluster; under the name
// kubectl-ocicat it is a plugin of kubectl.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/ocicat-net/ocicat/internal/cli"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/internal/storeopen"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cfg := cli.System(os.Args[0])
	cfg.OpenStore = func(_ context.Context, choice storeopen.Choice) (store.Store, error) {
		if choice.Kubernetes {
			return storeopen.Open(choice)
		}
		return etcd.New(etcd.Config{Endpoints: choice.Endpoints, Credentials: etcd.CredentialsFrom(os.Getenv).For(choice.Endpoints)})
	}
	code := cli.Run(ctx, cfg, os.Args[1:])
	stop()
	os.Exit(code)
}
