// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
)

// kubePlace is a Kubernetes cluster.
type kubePlace struct {
	config kubeapi.Config
	inPod  bool // we run in one of its pods, as its service account
}

// connect returns a client, which the caller closes. A program that gives
// credentials is run before, as people may have to answer it.
func (k *kubePlace) connect(ctx context.Context) (*kubeapi.Client, error) {
	if k.config.Program != nil {
		if err := k.config.Program.Login(ctx); err != nil {
			return nil, err
		}
	}
	return kubeapi.New(k.config)
}

// kubernetes is the cluster kubectl would take: the one that --kubeconfig,
// KUBECONFIG or ~/.kube/config names, else that of the pod we run in.
func (g *globals) kubernetes() (place, error) {
	files, source, err := g.kubeconfigs()
	if err != nil {
		return place{}, err
	}
	cluster := &kubePlace{inPod: len(files) == 0}
	switch {
	case len(files) > 0:
		cluster.config, err = kubeapi.FromKubeconfig(kubeapi.Choice{Context: g.kubeContext, Cluster: g.kubeCluster, User: g.kubeUser}, files...)
	case g.kubeContext == "" && g.kubeCluster == "" && g.kubeUser == "" && g.inPod():
		source = "service account of this pod"
		cluster.config, err = kubeapi.InCluster(g.Getenv, "/")
	default:
		err = fault.Hint(fault.New(fault.Unavailable, "find cluster: there is no kubeconfig"), "Name one with --kubeconfig or KUBECONFIG, or copy it to ~/.kube/config.")
	}
	if err != nil {
		return place{}, err
	}
	g.identify(&cluster.config)
	if program := cluster.config.Program; program != nil {
		program.Stderr = g.stderr
		if isTerminal(g.Stdin) {
			program.Stdin = g.Stdin
		}
	}
	return place{endpoints: []string{cluster.config.Server}, source: source, kube: cluster}, nil
}

// identify has cfg say who we are as flags have it. A token stands alone: beside
// a certificate the API server would believe the certificate.
func (g *globals) identify(cfg *kubeapi.Config) {
	if g.kubeToken != "" {
		cfg.Token, cfg.TokenFile, cfg.Program, cfg.Certificate = g.kubeToken, "", nil, kubeapi.Certificate{}
	}
	if g.kubeAs.Given() {
		cfg.As = g.kubeAs
	}
}

// inPod says whether we run in a pod of a Kubernetes cluster.
func (g *globals) inPod() bool { return g.Getenv("KUBERNETES_SERVICE_HOST") != "" }

// hasKubernetes says whether kubectl would take a cluster.
func (g *globals) hasKubernetes() bool {
	files, _, err := g.kubeconfigs()
	return err != nil || len(files) > 0 || g.inPod()
}

// kubeconfigs are the files kubectl would read, and who says so; none where
// there are none.
func (g *globals) kubeconfigs() (files []string, source string, err error) {
	if g.kubeconfig != "" {
		return []string{g.kubeconfig}, "--kubeconfig", nil
	}
	if list := filepath.SplitList(g.Getenv("KUBECONFIG")); len(list) > 0 {
		return list, "KUBECONFIG", nil
	}
	home := g.Getenv("HOME")
	if home == "" {
		return nil, "", nil
	}
	file := filepath.Join(home, ".kube", "config")
	switch _, err := os.Stat(file); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", nil
	case err != nil:
		return nil, "", fault.New(fault.Invalid, "find cluster: %w", err)
	}
	return []string{file}, file, nil
}
