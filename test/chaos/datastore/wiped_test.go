// SPDX-License-Identifier: Apache-2.0

// Package datastore proves in labs of real agents and a real etcd what becomes
// of pods when the datastore is not as it was.
package datastore

import (
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/speaker"
	"github.com/ocicat-net/ocicat/test/chaos"
	"github.com/ocicat-net/ocicat/test/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// TestWipedUnderPods deletes every key of a cluster at once, while a pod pings
// a pod of another node ten times a second.
func TestWipedUnderPods(t *testing.T) {
	r := chaos.Begin(t, "E9", "every key of a real etcd deleted at once under two nodes with pods, 10 packets a second between them", "0 packets lost, sessions stay, OC5008 on both nodes")
	nodes := []string{"k8s-master-1", "k8s-node-1"}
	l := labtest.Up(t, 2, []lab.PodSpec{{Namespace: "devops", Name: "m", Node: nodes[0]}, {Namespace: "devops", Name: "w", Node: nodes[1]}}, nil)
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	w, err := state.Pod("devops/w")
	if err != nil {
		t.Fatal(err)
	}
	flow := make(chan string, 1)
	go func() { flow <- l.Pod("devops/m", "ping -q -i 0.1 -c 80 -W 1 "+w.Address.Addr().String()) }()

	client, err := clientv3.New(clientv3.Config{Endpoints: state.Endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	gone, err := client.Delete(t.Context(), "/calico/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		agent := admin.Dial(l.AdminSocket(node))
		nstest.Eventually(t, 5*time.Second, func() bool {
			report, err := agent.Report(t.Context())
			if err != nil {
				return false
			}
			for _, p := range report.Status.Problems {
				if p.Code == "OC5008" {
					return true
				}
			}
			return false
		}, "OC5008 on ", node)
		sessions, err := agent.Sessions(t.Context())
		if err != nil || len(sessions) != 1 || sessions[0].State != speaker.Established {
			t.Errorf("sessions of %s: %v, %v", node, sessions, err)
		}
	}
	out := <-flow
	_, counts, _ := strings.Cut(out, "---\n")
	counts, _, _ = strings.Cut(counts, "\n")
	r.Measuredf("%d keys deleted: %s; sessions up, OC5008 on 2 of 2 nodes", gone.Deleted, counts)
	if !strings.Contains(counts, " 0% packet loss") {
		t.Errorf("packets were lost:\n%s", out)
	}
}
