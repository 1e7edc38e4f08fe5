// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
)

// namespace is where the manifest puts what lies in a namespace: it exists in
// every cluster, and may hold pods of the priority system-node-critical.
const namespace = "kube-system"

// head begins the manifest.
const head = `# Ocicat for Kubernetes 1.30 and newer: kubectl apply --server-side -f ocicat.yaml
# See docs/kubernetes.md. Generated from deploy/charts/ocicat by "make manifest":
# a change is made there.
`

// uninstallHead begins the manifest that uninstalls.
const uninstallHead = `# Takes Ocicat off every node: docs/upgrade-and-uninstall.md. Delete the DaemonSet
# ocicat-node first. Generated from deploy/charts/ocicat by "make manifest".
`

// render renders the chart in dir as Helm would install it: values are laid
// over the chart's own, checked against its schema, and the objects come in
// the order in which they are created.
func render(dir string, values map[string]any) (string, error) {
	return renderFiles(dir, values, head, func(string) bool { return true })
}

// renderUninstall renders what takes the network off the nodes, without the
// definitions: who deletes it again shall not delete these.
func renderUninstall(dir string) (string, error) {
	values := map[string]any{"uninstall": map[string]any{"enabled": true}}
	return renderFiles(dir, values, uninstallHead, func(name string) bool { return strings.HasSuffix(name, "/uninstall.yaml") })
}

// renderFiles renders the templates whose names are wanted, behind a head.
func renderFiles(dir string, values map[string]any, head string, wanted func(name string) bool) (string, error) {
	chart, err := loader.LoadDir(dir)
	if err != nil {
		return "", fmt.Errorf("load %s: %w", dir, err)
	}
	release := chartutil.ReleaseOptions{Name: "ocicat", Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return "", err
	}
	for name := range files {
		if strings.HasSuffix(name, "NOTES.txt") || !wanted(name) {
			delete(files, name)
		}
	}
	_, objects, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return "", err
	}
	sortByName(objects)
	var b strings.Builder
	b.WriteString(head)
	for _, o := range objects {
		b.WriteString("---\n" + strings.TrimSpace(strings.TrimPrefix(o.Content, "---\n")) + "\n")
	}
	return b.String(), nil
}

// sortByName orders objects of one kind by name, which Helm's order of kinds
// leaves open: the manifest does not depend on how files are called.
func sortByName(objects []releaseutil.Manifest) {
	place := map[string]int{}
	for i, o := range objects {
		if _, seen := place[o.Head.Kind]; !seen {
			place[o.Head.Kind] = i
		}
	}
	slices.SortStableFunc(objects, func(a, b releaseutil.Manifest) int {
		return cmp.Or(place[a.Head.Kind]-place[b.Head.Kind], strings.Compare(nameOf(a), nameOf(b)))
	})
}

func nameOf(m releaseutil.Manifest) string {
	if m.Head.Metadata == nil {
		return ""
	}
	return m.Head.Metadata.Name
}
