// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"testing"

	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/internal/store/storetest"
)

func TestCommitConformance(t *testing.T) {
	storetest.RunCommit(t, func(t *testing.T) storetest.Committer {
		return open(t, etcd.Config{Endpoints: []string{server(t, 0)}})
	})
}
