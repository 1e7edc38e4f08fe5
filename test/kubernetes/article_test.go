// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"testing"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// errAwaited is what was seen instead of what is awaited.
func errAwaited(seen string, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %s", err, seen)
	}
	return fmt.Errorf("%s", seen)
}

// TestArticle is the article's manifest, unchanged, on the product.
func TestArticle(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			c := cluster.Up(t, v.options)
			t.Logf("nodes Ready after %.1f s", c.Install().Seconds())
			c.Article(t)
		})
	}
}
