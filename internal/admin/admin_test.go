// SPDX-License-Identifier: Apache-2.0

package admin_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/ocicat-net/ocicat/api/meta"
	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

type fakeAgent struct{ drained string }

func (*fakeAgent) Ready() error { return nil }
func (*fakeAgent) Report() *v1.NodeStatus {
	return &v1.NodeStatus{Metadata: meta.Object{Name: "n1"}, Status: v1.NodeReport{Counts: v1.Counts{Drift: 3}}}
}
func (*fakeAgent) Sessions() []speaker.Session { return []speaker.Session{{Name: "n2"}} }
func (*fakeAgent) Paths() []speaker.Path       { return nil }
func (*fakeAgent) Endpoints() []admin.Endpoint { return nil }
func (*fakeAgent) Routes(context.Context) ([]admin.Route, error) {
	return nil, fault.Hint(fault.New(fault.Unavailable, "read routes: interrupted"), "try again")
}

func (f *fakeAgent) Drain(_ context.Context, reason string) error {
	f.drained = reason
	return nil
}

func TestClientSeesWhatTheAgentSays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	agent := &fakeAgent{}
	server := admin.New(path, agent, agent, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	<-server.Ready()

	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v: want 0600", info.Mode(), err)
	}
	client := admin.Dial(path)
	if r, err := client.Report(ctx); err != nil || r.Metadata.Name != "n1" || r.Status.Counts.Drift != 3 {
		t.Errorf("report %+v, %v", r, err)
	}
	if list, err := client.Sessions(ctx); err != nil || len(list) != 1 || list[0].Name != "n2" {
		t.Errorf("sessions %+v, %v", list, err)
	}
	if _, err := client.Routes(ctx); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) != "try again" {
		t.Errorf("routes: kind and hint are lost: %v", err)
	}
	if err := client.Drain(ctx, "upgrade & more"); err != nil || agent.drained != "upgrade & more" {
		t.Errorf("drain %q, %v", agent.drained, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("end of context: %v", err)
	}
	if err := client.Ready(t.Context()); !fault.Is(err, fault.Unavailable) || fault.HintOf(err) == "" {
		t.Errorf("agent gone: %v", err)
	}
}
