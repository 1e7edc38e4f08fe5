// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/probe"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// Site opens the namespaces of this node and its pods that places name. One
// that is gone is left out: what that means for a path is trace's to say.
func (a *Agent) Site(ctx context.Context, places []trace.Place) (probe.Site, func(), error) {
	kernels := probe.NewKernels(ctx)
	var open []*os.File
	done := func() {
		_ = kernels.Close()
		for _, ns := range open {
			_ = ns.Close()
		}
	}
	add := func(at trace.Place, path string) error {
		if path == "" || !slices.Contains(places, at) {
			return nil
		}
		ns, err := netns.Open(path)
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		open = append(open, ns)
		return kernels.Add(at, ns)
	}
	node := string(a.cfg.Node)
	err := add(trace.Place{Node: node}, "/proc/self/ns/net")
	for _, ep := range a.Endpoints() {
		if err == nil {
			err = add(trace.Place{Node: node, Pod: placeName(ep.Endpoint)}, netnsPath(ep.NetnsPath))
		}
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return kernels, done, nil
}

// placeName is a pod as trace names its place.
func placeName(ep cluster.Endpoint) string {
	if ep.Pod == "" {
		return ep.ID.ContainerID
	}
	return ep.Namespace + "/" + ep.Pod
}

// netnsPath is where a runtime's namespace is for us: it names it below
// /var/run, which an image need not have.
func netnsPath(path string) string {
	if name, ok := strings.CutPrefix(path, "/var/run/netns/"); ok {
		return "/run/netns/" + name
	}
	return path
}
