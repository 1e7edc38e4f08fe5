// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
)

// helm is the program, built once for a process from the chart's own module.
var helm = sync.OnceValues(func() (string, error) {
	dir, err := buildDir()
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "helm")
	build := exec.Command("go", "-C", source("../../tools/chart"), "build", "-o", program, "helm.sh/helm/v3/cmd/helm")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build helm: %w\n%s", err, out)
	}
	return program, nil
})

// Chart is the directory of the product's chart.
func (c *Cluster) Chart() string { return source("../../deploy/charts/ocicat") }

// Helm runs helm in the namespace of the product and returns what it printed.
func (c *Cluster) Helm(args ...string) (string, error) {
	c.t.Helper()
	program, err := helm()
	if err != nil {
		c.t.Fatal(err)
	}
	return c.run(c.t.Context(), "", append([]string{"run", program, "-n", "kube-system"}, args...)...)
}
