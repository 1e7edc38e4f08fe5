// SPDX-License-Identifier: Apache-2.0

// Package uplink proves that a node finds its address on machines of every
// kind, keeps it, follows it when it changes, and is back at once after its
// uplink was.
package uplink

import (
	"os"
	"testing"

	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
