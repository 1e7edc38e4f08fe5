// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ocicat-net/ocicat/internal/lab"
)

// labs is the suite of whole clusters in full mesh, from nothing until every
// node has every route.
func labs(ctx context.Context, o options) (r result, err error) {
	sizes := []struct {
		nodes int
		bound float64
	}{{50, 20}, {120, 90}}
	if o.quick {
		sizes = sizes[:1]
	}
	for _, s := range sizes {
		took, err := labUp(ctx, o, s.nodes)
		if err != nil {
			return r, fmt.Errorf("lab of %d nodes: %w", s.nodes, err)
		}
		r.Figures = append(r.Figures, atMost(fmt.Sprintf("lab of %d nodes, full mesh, %d sessions", s.nodes, s.nodes*(s.nodes-1)/2), took.Seconds(), s.bound, "s"))
	}
	return r, nil
}

// labUp makes a lab, waits until it is whole, and removes it.
func labUp(ctx context.Context, o options, nodes int) (took time.Duration, err error) {
	l, err := lab.New(lab.Config{Name: fmt.Sprintf("bench%d", os.Getpid()), Root: filepath.Join(o.dir, "lab"), BinDir: o.bin})
	if err != nil {
		return 0, err
	}
	topology, err := lab.Article(nodes)
	if err != nil {
		return 0, err
	}
	defer func() {
		_, downErr := l.Down(context.WithoutCancel(ctx))
		err = errors.Join(err, downErr)
	}()
	begin := time.Now()
	err = l.Up(ctx, topology, lab.ArticlePods(nodes))
	return time.Since(begin), err
}
