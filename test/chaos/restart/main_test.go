// SPDX-License-Identifier: Apache-2.0

// Package restart proves that a node loses nothing when its agent dies, is
// stopped, replaced, frozen or killed by the kernel: a flow between pods of two
// nodes spans each event, and the peer is our own agent, BIRD 2, FRR with zebra
// or GoBGP. The twins have peers without graceful restart, or end the sessions
// with a Cease; they show that the meters see loss.
package restart

import (
	"flag"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) {
	// The tests wait most of their time, so all peers have their turn at once.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(labtest.Main(m))
}

const (
	stable, dying = "k8s-master-1", "k8s-node-1" // the peer that sends, and the node whose agent dies
	sender        = "devops.sender"
	receiver      = "devops.receiver"
)

// The blocks of the two nodes; a lab gives the same ones each time.
var (
	stableBlock = netip.MustParsePrefix("172.16.196.0/26")
	dyingBlock  = netip.MustParsePrefix("172.16.109.64/26")
)

// scene is a lab of two nodes with a pod each.
type scene struct {
	*labtest.Lab
	to    netip.Addr // the receiver's address
	agent *agent     // of the dying node
	peer  peer       // on the stable node
	t     *testing.T // of the whole scene
}

func newScene(t *testing.T) *scene {
	t.Helper()
	l := labtest.Up(t, 2, []lab.PodSpec{
		{Namespace: "devops", Name: "sender", Node: stable},
		{Namespace: "devops", Name: "receiver", Node: dying},
	}, nil)
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	return &scene{Lab: l, to: state.Pods[1].Address.Addr(), agent: newAgent(t, l, dying), t: t}
}

// awaitSession waits until a node's one session is Established; it says how
// long that took.
func awaitSession(t *testing.T, l *labtest.Lab, node string) time.Duration {
	t.Helper()
	client, began := admin.Dial(l.AdminSocket(node)), time.Now()
	nstest.Eventually(t, 30*time.Second, func() bool {
		sessions, err := client.Sessions(t.Context())
		return err == nil && len(sessions) == 1 && sessions[0].State == speaker.Established
	}, "session Established of ", node)
	return time.Since(began)
}
