// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
)

// sizes is the suite of the programs' sizes on disk, as a release builds them.
func sizes(_ context.Context, o options) (result, error) {
	var r result
	for _, p := range []struct {
		name  string
		bound float64
	}{{"ocicat-cni", 3.5}, {"ocicatd", 40}, {"ocicat", 0}, {"ocicat-etcd", 0}} {
		info, err := os.Stat(filepath.Join(o.bin, p.name))
		if err != nil {
			return r, err
		}
		mb := float64(info.Size()) / 1e6
		if p.bound == 0 {
			r.Figures = append(r.Figures, informs(p.name, mb, "MB"))
		} else {
			r.Figures = append(r.Figures, atMost(p.name, mb, p.bound, "MB"))
		}
	}
	return r, nil
}
