// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/httpd"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

// full is a page with every metric of the table, its labels hostile.
func full(t *testing.T) string {
	t.Helper()
	var p Page
	counts := new(Counts)
	for _, m := range Table() {
		labels := make([]string, len(m.Labels))
		for i := range labels {
			labels[i] = "a\\b\"c\nd\xff{}"
		}
		switch m.Kind {
		case Histogram:
			counts.Observe(m.Name, 3*time.Millisecond, labels...)
			counts.Observe(m.Name, time.Hour, labels...)
		default:
			p.Set(m.Name, math.Pi, labels...)
		}
	}
	counts.Collect(&p)
	var b strings.Builder
	if _, err := p.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func parse(t *testing.T, page string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatalf("page cannot be read: %v\n%s", err, page)
	}
	return families
}

// TestPageIsRead has Prometheus' own reader read what we write.
func TestPageIsRead(t *testing.T) {
	families := parse(t, full(t))
	for _, m := range Table() {
		f := families[m.Name]
		if f == nil || !strings.EqualFold(f.GetType().String(), string(m.Kind)) || f.GetHelp() != m.Help || len(f.Metric) != 1 {
			t.Errorf("%s: read as %v", m.Name, f)
			continue
		}
		for _, l := range f.Metric[0].Label {
			if l.GetValue() != "a\\b\"c\nd\uFFFD{}" {
				t.Errorf("%s: label %s read as %q", m.Name, l.GetName(), l.GetValue())
			}
		}
		if m.Kind == Histogram {
			h := f.Metric[0].Histogram
			if h.GetSampleCount() != 2 || h.GetSampleSum() != 3600.003 || len(h.Bucket) != len(m.Buckets)+1 {
				t.Errorf("%s: read as %v", m.Name, h)
			}
		}
	}
}

// foreign are metrics whose names are Calico's, which Prometheus' rules for
// names are younger than.
var foreign = []string{"felix_int_dataplane_failures"}

func TestNamesObeyPrometheusRules(t *testing.T) {
	findings, err := promlint.New(strings.NewReader(full(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	var bad []string
	for _, f := range findings {
		if !strings.Contains(strings.Join(foreign, " "), f.Metric) {
			bad = append(bad, f.Metric+": "+f.Text)
		}
	}
	if len(findings) == 0 {
		t.Error("the lint found nothing, not even what is Calico's")
	}
	if bad != nil {
		t.Error(strings.Join(bad, "\n"))
	}
}

func TestBucketsCountUpToTheirBound(t *testing.T) {
	var p Page
	counts := new(Counts)
	for _, ms := range []int{1, 2, 10, 11, 20_000} {
		counts.Verb("ADD", time.Duration(ms)*time.Millisecond, nil)
	}
	counts.Collect(&p)
	var b strings.Builder
	if _, err := p.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	h := parse(t, b.String())["ocicat_cni_request_duration_seconds"].Metric[0].Histogram
	got := map[float64]uint64{}
	for _, bucket := range h.Bucket {
		got[bucket.GetUpperBound()] = bucket.GetCumulativeCount()
	}
	want := map[float64]uint64{.001: 1, .0025: 2, .005: 2, .01: 3, .025: 4, .05: 4, .1: 4, .25: 4, .5: 4, 1: 4, 2.5: 4, 5: 4, 10: 4, math.Inf(1): 5}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("buckets (-want +got):\n%s", diff)
	}
}

func TestWhatTheTableLacksIsAnError(t *testing.T) {
	for _, set := range []func(*Page){
		func(p *Page) { p.Set("no_such_metric", 1) },
		func(p *Page) { p.Set("ocicat_problems", 1) },
		func(p *Page) { p.Set("ocicat_agent_ready", 1, "label") },
		func(p *Page) { p.Set("ocicat_kernel_repair_seconds", 1) },
	} {
		var p Page
		set(&p)
		if _, err := p.WriteTo(io.Discard); err == nil {
			t.Error("no error")
		}
	}
}

func TestStoreCounts(t *testing.T) {
	counts := new(Counts)
	backing := mem.New()
	s := NewStore(backing, counts)
	ctx := t.Context()
	key := store.Key{Kind: store.Heartbeat, Name: "n1"}
	if _, err := s.Get(ctx, key); !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	rev, err := s.Put(ctx, key, []byte("{}"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, key, []byte("{}"), 0); !fault.Is(err, fault.Conflict) {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	counts.Verb("DEL", time.Millisecond, fmt.Errorf("wrapped: %w", gone.Err()))
	counts.Verb("DEL", time.Millisecond, errors.New("anything"))
	if err := s.Delete(ctx, key, rev); err != nil {
		t.Fatal(err)
	}
	var p Page
	counts.Collect(&p)
	s.Collect(&p)
	var b strings.Builder
	if _, err := p.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`ocicat_datastore_calls_total{op="get",result="ok"} 1`,
		`ocicat_datastore_calls_total{op="put",result="ok"} 1`,
		`ocicat_datastore_calls_total{op="put",result="conflict"} 1`,
		`ocicat_datastore_calls_total{op="delete",result="ok"} 1`,
		`ocicat_cni_requests_total{verb="DEL",result="canceled"} 1`,
		`ocicat_cni_requests_total{verb="DEL",result="internal"} 1`,
		`ocicat_datastore_revision 1`,
		"ocicat_datastore_heartbeat_age_seconds ",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no line %s in\n%s", line, b.String())
		}
	}
}

func TestProcess(t *testing.T) {
	var p Page
	Process{}.Collect(&p)
	var b strings.Builder
	if _, err := p.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	families := parse(t, b.String())
	for _, name := range []string{"process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds", "process_max_fds", "go_goroutines", "go_memstats_heap_alloc_bytes", "go_memstats_sys_bytes"} {
		if f := families[name]; f == nil || f.Metric[0].GetGauge().GetValue() <= 0 {
			t.Errorf("%s: %v", name, f)
		}
	}
	started := families["process_start_time_seconds"].Metric[0].GetGauge().GetValue()
	if age := float64(time.Now().Unix()) - started; age < -5 || age > 3600 {
		t.Errorf("process started %v s ago", age)
	}
}

// TestServerGoesOnWithoutItsPort holds the port, lets it go, and asks.
func TestServerGoesOnWithoutItsPort(t *testing.T) {
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := holder.Addr().(*net.TCPAddr).AddrPort()
	changed := make(chan struct{}, 8)
	s := NewServer(addr, slog.New(slog.DiscardHandler), func() { changed <- struct{}{} }, Process{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("server ended: %v", err)
		}
	})
	<-changed
	found := s.Problems()
	if len(found) != 1 || found[0].Code != "OC4010" || !strings.Contains(found[0].Text, addr.String()+": ") || !strings.Contains(found[0].Text, "address already in use") {
		t.Errorf("problems: %v", found)
	}
	holder.Close()
	<-changed
	if found := s.Problems(); len(found) != 0 {
		t.Errorf("problems after the port was free: %v", found)
	}
	answer, err := http.Get("http://" + addr.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || answer.Header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("%v, %v", answer.Header, err)
	}
	parse(t, string(page))
	cancel()
	running.Wait()
	nstest.Eventually(t, 5*time.Second, func() bool {
		again, err := net.Listen("tcp", addr.String())
		if err == nil {
			again.Close()
		}
		return err == nil
	}, "port free after the end")
}

func TestServerWithoutIsNoProblem(t *testing.T) {
	var s *httpd.Server
	if s.Problems() != nil {
		t.Error("metrics turned off are a problem")
	}
	if got := NewServer(netip.MustParseAddrPort("127.0.0.1:9091"), slog.New(slog.DiscardHandler), nil).String(); got != "metrics server 127.0.0.1:9091" {
		t.Error(got)
	}
}

const docsHead = `# Metrics

The agent serves metrics for [Prometheus](https://prometheus.io/) at
` + "`http://127.0.0.1:9091/metrics`" + `, Felix's port. Only processes of the node itself reach
them there; ` + "`FELIX_PROMETHEUSMETRICSHOST`" + `, ` + "`FELIX_PROMETHEUSMETRICSPORT`" + ` and
` + "`FELIX_PROMETHEUSMETRICSENABLED`" + ` say otherwise ([environment.md](environment.md)). A port that
is taken is problem OC4010, and the agent works on.

Names are Calico's where the meaning is: ` + "`felix_…`" + ` are Felix's, ` + "`ipam_…`" + ` those of its
controllers, of this node alone. The labels of a metric have few values: peers are
those configured, the first 500 by address; results are ok, canceled, or the kind of
an error. Nothing in them is secret: addresses, names of nodes and pools, codes.

This page is made from the table in ` + "`internal/metrics/table.go`" + `.

| metric | type | labels | meaning |
|---|---|---|---|
`

// TestDocs compares docs/metrics.md with the table; -update rewrites it.
func TestDocs(t *testing.T) {
	const path = "../../docs/metrics.md"
	var b strings.Builder
	b.WriteString(docsHead)
	for _, m := range Table() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, strings.Join(m.Labels, ", "), m.Help)
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("run go test ./internal/metrics -update (-want +got):\n%s", diff)
	}
}
