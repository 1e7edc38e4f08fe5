// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"flag"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

var update = flag.Bool("update", false, "rewrite the golden files; commit only what you understand")

// scenario is a Snapshot as the golden files write it.
type scenario struct {
	Self      cluster.NodeName
	Metric    uint32
	Unsynced  []netip.Addr
	NotSynced bool
	Nodes     []cluster.Node
	Pools     []cluster.Pool
	PastPools []netip.Prefix
	Blocks    []cluster.Block
	Endpoints []cluster.Endpoint
	BGP       cluster.BGP
	Peers     []cluster.PeerSpec
	Learned   learned
	Host      cluster.Host
	Aliases   map[string]string // of links, by name
	Seen      []host.Route      // routes in the kernel, for the decision what may be deleted
}

type learned []cluster.LearnedRoute

func (l learned) All() iter.Seq[cluster.LearnedRoute] { return slices.Values(l) }
func (l learned) Len() int                            { return len(l) }

func (sc scenario) snapshot() *cluster.Snapshot {
	s := &cluster.Snapshot{
		Self:            sc.Self,
		Settings:        cluster.Settings{RouteProtocol: host.ProtoBird, EndpointMetric: sc.Metric, InterfacePrefix: "cali", PermGateway: true},
		Nodes:           map[cluster.NodeName]cluster.Node{},
		Pools:           sc.Pools,
		PastPools:       sc.PastPools,
		Blocks:          sc.Blocks,
		Endpoints:       map[cluster.EndpointID]cluster.Endpoint{},
		BGP:             sc.BGP,
		Peers:           sc.Peers,
		Learned:         sc.Learned,
		Unsynced:        map[netip.Addr]bool{},
		Host:            sc.Host,
		StoreSynced:     !sc.NotSynced,
		BlocksSynced:    !sc.NotSynced,
		EndpointsSynced: !sc.NotSynced,
	}
	for _, n := range sc.Nodes {
		s.Nodes[n.Name] = n
	}
	for _, ep := range sc.Endpoints {
		s.Endpoints[ep.ID] = ep
	}
	for _, a := range sc.Unsynced {
		s.Unsynced[a] = true
	}
	return s
}

// TestGolden compares, for every scenario in testdata, the wanted kernel
// state, the wanted speaker and the problems with the text beside them.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var sc scenario
			if err := yaml.UnmarshalStrict(section(archive, "snapshot"), &sc); err != nil {
				t.Fatal(err)
			}
			got := render(sc)
			if *update {
				rewrite(t, file, archive, got)
				return
			}
			for name, text := range got {
				if diff := cmp.Diff(string(section(archive, name)), text); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
		})
	}
}

func render(sc scenario) map[string]string {
	s := sc.snapshot()
	want, hostProblems := core.Host(s)
	cfg, speakerProblems := core.Speaker(s)
	out := map[string]string{"host": want.String(), "speaker": speakerText(cfg)}
	var b strings.Builder
	for _, p := range problem.Sort(append(hostProblems, speakerProblems...)) {
		fmt.Fprintf(&b, "%s %s\n", p.Code, p.Text)
	}
	out["problems"] = b.String()
	if len(sc.Seen) > 0 {
		b.Reset()
		links := map[string]host.Link{}
		for name, alias := range sc.Aliases {
			links[name] = host.Link{Name: name, Alias: alias}
		}
		for _, r := range sc.Seen {
			ours := core.Ours(s, links, r)
			fmt.Fprintf(&b, "%-60s ours=%-5v deletable=%v\n", r, ours, ours && core.Deletable(s, r))
		}
		out["seen"] = b.String()
	}
	return out
}

func speakerText(c speaker.Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "AS %d id %v listen %v complete %v\n", c.AS, c.RouterID, c.Listen, c.Complete)
	for _, p := range c.Peers {
		fmt.Fprintf(&b, "peer %v AS %d %s %s from %v hold %v keepalive %v restart %v\n", p.Addr, p.AS, p.Kind, p.Name, p.LocalAddr, p.Hold, p.Keepalive, p.RestartTime)
	}
	for _, a := range c.Advertise {
		fmt.Fprintf(&b, "advertise %v next hop %v\n", a.Prefix, a.NextHop)
	}
	return b.String()
}

func section(a *txtar.Archive, name string) []byte {
	for _, f := range a.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func rewrite(t *testing.T, file string, a *txtar.Archive, got map[string]string) {
	t.Helper()
	fresh := &txtar.Archive{Comment: a.Comment, Files: []txtar.File{{Name: "snapshot", Data: section(a, "snapshot")}}}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		fresh.Files = append(fresh.Files, txtar.File{Name: name, Data: []byte(got[name])})
	}
	if err := os.WriteFile(file, txtar.Format(fresh), 0o644); err != nil {
		t.Fatal(err)
	}
}
