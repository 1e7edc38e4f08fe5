// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
)

// scenario is a recording of Calico's IPAM: what was asked, what it answered
// and what it wrote, step by step.
type scenario struct {
	Name  string
	Steps []step
}

type step struct {
	N      int
	Op     string
	Args   json.RawMessage
	Result json.RawMessage
	Error  *struct{ Type, Text string }
	Writes []struct {
		Put, Delete string
		Value       json.RawMessage
	}
}

// TestGolden replays every recording against the Client. After each step the
// answer, the kind of the error and every stored object must equal the
// recording's, but for what differences lists; then the store is set to the
// recorded state, so that a difference does not drag others behind it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != 40 {
		t.Fatalf("%d recordings, %v", len(files), err)
	}
	unused := map[difference]bool{}
	for _, d := range differences {
		unused[d] = true
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s scenario
			if err := json.Unmarshal(data, &s); err != nil {
				t.Fatal(err)
			}
			newReplay(t).run(name, s, unused)
		})
	}
	for d := range unused {
		t.Errorf("difference %+v is listed but does not occur", d)
	}
}

// replay runs one scenario.
type replay struct {
	t       *testing.T
	ctx     context.Context
	mem     *mem.Store
	client  *Client
	pools   map[string]cluster.Pool
	nodes   map[string]map[string]string
	kept    []netip.Prefix
	want    map[string]any    // the recorded state by short key
	blocks  int               // blocks created so far in the recording
	created map[string]uint64 // first sequence number of blocks created in this step, by short key
	order   []string          // their keys in the order of creation
}

func newReplay(t *testing.T) *replay {
	r := &replay{t: t, ctx: t.Context(), mem: mem.New(), pools: map[string]cluster.Pool{}, nodes: map[string]map[string]string{}, want: map[string]any{}}
	r.client = NewClient(ClientConfig{
		Store: r,
		Pools: func(context.Context) ([]cluster.Pool, error) {
			var all []cluster.Pool
			for _, p := range r.pools {
				all = append(all, p)
			}
			return all, nil
		},
		NodeLabels: func(_ context.Context, node string) (map[string]string, error) {
			labels, ok := r.nodes[node]
			if !ok {
				return nil, fault.New(fault.NotFound, "node %s", node)
			}
			return labels, nil
		},
		Reservations: func(context.Context) ([]netip.Prefix, error) { return r.kept, nil },
		// Calico's rule: a minute after the claim an empty block is anybody's.
		Reclaim: func(_ context.Context, _ string, claimed time.Time) (bool, error) {
			return time.Since(claimed) > time.Minute, nil
		},
		Borrow: true,
	})
	return r
}

// run replays s and strikes the differences it meets off unused.
func (r *replay) run(name string, s scenario, unused map[difference]bool) {
	for _, st := range s.Steps {
		r.created, r.order = map[string]uint64{}, nil
		found := r.step(st)
		for what, diff := range found {
			d := difference{name, st.N, what, ""}
			at := slices.IndexFunc(differences, func(l difference) bool { return l.file == d.file && l.step == d.step && l.what == d.what })
			if at < 0 {
				r.t.Errorf("step %d %s %s: %s -want +got:\n%s", st.N, st.Op, st.Args, what, diff)
				continue
			}
			delete(unused, differences[at])
		}
		r.force()
	}
}

// step runs one step and returns what differs from the recording.
func (r *replay) step(st step) map[string]string {
	found := map[string]string{}
	got, err, known := r.call(st)
	if !known {
		found["operation"] = "not offered"
	}
	wantResult, wantKind := r.recorded(st)
	r.apply(st)
	if !known {
		return found
	}
	if diff := cmp.Diff(wantResult, got); diff != "" {
		found["result"] = diff
	}
	if kind := kindText(err); kind != wantKind {
		found["error"] = fmt.Sprintf("-%s\n+%s (%v)", wantKind, kind, err)
	}
	state := r.state()
	for key := range r.want {
		if diff := cmp.Diff(r.want[key], state[key]); diff != "" {
			found[key] = diff
		}
	}
	for key := range state {
		if _, ok := r.want[key]; !ok {
			found[key] = fmt.Sprintf("+%v", state[key])
		}
	}
	return found
}

func kindText(err error) string {
	if err == nil {
		return "none"
	}
	return fault.KindOf(err).String()
}

// apply brings the recorded state forward by the step's writes.
func (r *replay) apply(st step) {
	for _, w := range st.Writes {
		if key, ok := shortKey(w.Delete); ok {
			delete(r.want, key)
		}
		if key, ok := shortKey(w.Put); ok {
			var v any
			if err := json.Unmarshal(w.Value, &v); err != nil {
				r.t.Fatalf("step %d: %v", st.N, err)
			}
			r.want[key] = expand(v)
			if m, ok := v.(map[string]any); ok {
				if k, n, ok := symbol(m["sequenceNumber"]); ok && n == 0 {
					r.blocks = max(r.blocks, k)
				}
			}
		}
	}
}

// force sets the store to the recorded state.
func (r *replay) force() {
	for _, kind := range []store.Kind{store.Block, store.Affinity, store.Handle, store.IPAMConfig} {
		entries, _, err := r.mem.List(r.ctx, kind, "")
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range entries {
			if err := r.mem.Delete(r.ctx, e.Key, store.AnyRevision); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	for key, value := range r.want {
		data, err := json.Marshal(concrete(value))
		if m, ok := value.(map[string]any); ok && m["$notJSON"] != nil {
			data = []byte(m["$notJSON"].(string))
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := r.mem.Put(r.ctx, storeKey(key), data, store.AnyRevision); err != nil {
			r.t.Fatal(err)
		}
	}
}

// state is what the store holds, in the recording's terms.
func (r *replay) state() map[string]any {
	state := map[string]any{}
	for _, kind := range []store.Kind{store.Block, store.Affinity, store.Handle, store.IPAMConfig} {
		entries, _, err := r.mem.List(r.ctx, kind, "")
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range entries {
			key := keyText(e.Key)
			var v any
			d := json.NewDecoder(bytes.NewReader(e.Value))
			d.UseNumber()
			if err := d.Decode(&v); err != nil {
				v = map[string]any{"$notJSON": string(e.Value)}
			}
			state[key] = r.symbolic(key, v)
		}
	}
	return state
}

// symbolic writes numbers and times of an object as the recording does.
func (r *replay) symbolic(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for field, value := range v {
			switch {
			case field == "affinity_claim_time" || field == "releasedAt":
				at, err := time.Parse(time.RFC3339, value.(string))
				if err != nil {
					r.t.Fatal(err)
				}
				v[field] = ago(time.Since(at))
			case field == "sequenceNumber":
				v[field] = r.sequence(key, value.(json.Number))
			case field == "sequenceNumberForAllocation" && value != nil:
				for ordinal, n := range value.(map[string]any) {
					value.(map[string]any)[ordinal] = r.sequence(key, n.(json.Number))
				}
			default:
				v[field] = r.symbolic(key, value)
			}
		}
	case []any:
		for i := range v {
			v[i] = r.symbolic(key, v[i])
		}
	case json.Number:
		n, _ := v.Float64()
		return n
	}
	return v
}

func ago(d time.Duration) string {
	if d = d.Round(10 * time.Second); d > 0 {
		return fmt.Sprintf("<T-%ds>", int(d.Seconds()))
	}
	return "<T>"
}

// perBlock separates the sequence numbers of blocks in the store: the k-th
// created block of a recording starts at k times this.
const perBlock = 1_000_000_000

func (r *replay) sequence(key string, number json.Number) any {
	n, err := strconv.ParseUint(number.String(), 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	if base, ok := r.created[key]; ok && n >= base {
		return fmt.Sprintf("S%d+%d", r.blocks-len(r.order)+slices.Index(r.order, key)+1, n-base)
	}
	if n < perBlock {
		return float64(n)
	}
	return fmt.Sprintf("S%d+%d", n/perBlock, n%perBlock)
}

// symbol reads "S3+1" as 3 and 1.
func symbol(v any) (k, n int, ok bool) {
	s, _ := v.(string)
	got, err := fmt.Sscanf(s, "S%d+%d", &k, &n)
	return k, n, err == nil && got == 2
}

// concrete writes an object of the recording as the store holds it.
func concrete(v any) any {
	if k, n, ok := symbol(v); ok {
		return k*perBlock + n
	}
	switch v := v.(type) {
	case string:
		var seconds int
		if _, err := fmt.Sscanf(v, "<T-%ds>", &seconds); err == nil || v == "<T>" {
			return time.Now().Add(-time.Duration(seconds) * time.Second).UTC().Format(time.RFC3339)
		}
	case map[string]any:
		m := map[string]any{}
		for field, value := range v {
			m[field] = concrete(value)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i := range v {
			l[i] = concrete(v[i])
		}
		return l
	}
	return v
}

// expand writes out the runs that stand for long arrays.
func expand(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	if runs, ok := m["$runsEqual"].([]any); ok {
		var all []any
		for _, run := range runs {
			for range int(run.([]any)[1].(float64)) {
				all = append(all, run.([]any)[0])
			}
		}
		return all
	}
	if runs, ok := m["$runsAscending"].([]any); ok {
		var all []any
		for _, run := range runs {
			first, n := run.([]any)[0].(float64), run.([]any)[1].(float64)
			for i := range int(n) {
				all = append(all, first+float64(i))
			}
		}
		return all
	}
	for field, value := range m {
		m[field] = expand(value)
	}
	return m
}

// shortKey is an etcd key without the parts that are always the same: block/,
// affinity/, handle/ and a name, or config. Other keys are not ours.
func shortKey(etcd string) (string, bool) {
	rest, ok := strings.CutPrefix(etcd, "/calico/ipam/v2/")
	parts := strings.Split(rest, "/")
	switch {
	case !ok:
		return "", false
	case parts[0] == "assignment" && len(parts) == 4:
		return "block/" + parts[3], true
	case parts[0] == "host" && len(parts) == 5:
		return "affinity/" + parts[1] + "/" + parts[4], true
	case parts[0] == "handle" && len(parts) == 2, parts[0] == "config":
		return rest, true
	}
	return "", false
}

var kindNames = map[store.Kind]string{store.Block: "block", store.Affinity: "affinity", store.Handle: "handle", store.IPAMConfig: "config"}

func keyText(k store.Key) string {
	if k.Kind == store.IPAMConfig {
		return "config"
	}
	return kindNames[k.Kind] + "/" + k.Name
}

func storeKey(short string) store.Key {
	prefix, name, _ := strings.Cut(short, "/")
	for kind, text := range kindNames {
		if text == prefix {
			if kind == store.IPAMConfig {
				name = "default"
			}
			return store.Key{Kind: kind, Name: name}
		}
	}
	return store.Key{}
}

// The replay is the Client's store: it notes which blocks a step creates.

func (r *replay) Get(ctx context.Context, key store.Key) (store.Entry, error) {
	return r.mem.Get(ctx, key)
}

func (r *replay) List(ctx context.Context, kind store.Kind, prefix string) ([]store.Entry, store.Revision, error) {
	return r.mem.List(ctx, kind, prefix)
}

func (r *replay) Put(ctx context.Context, key store.Key, value []byte, prev store.Revision) (store.Revision, error) {
	rev, err := r.mem.Put(ctx, key, value, prev)
	if err == nil && prev == 0 && key.Kind == store.Block {
		b, err := alloc.ParseBlock(value)
		if err != nil {
			r.t.Fatal(err)
		}
		r.created[keyText(key)] = b.Sequence
		r.order = append(r.order, keyText(key))
	}
	return rev, err
}

func (r *replay) Delete(ctx context.Context, key store.Key, prev store.Revision) error {
	return r.mem.Delete(ctx, key, prev)
}

func (r *replay) Watch(ctx context.Context, kind store.Kind, prefix string, since store.Revision) (<-chan store.Event, error) {
	return r.mem.Watch(ctx, kind, prefix, since)
}

func (r *replay) Close() error { return nil }

// poolFrom reads the fields of a recorded pool that address management needs.
func poolFrom(name string, spec json.RawMessage) (cluster.Pool, error) {
	var s struct {
		CIDR         string
		BlockSize    int
		NodeSelector string

		NamespaceSelector string
		Disabled          bool
		AllowedUses       []string
		AssignmentMode    string
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return cluster.Pool{}, err
	}
	p, err := cidr.Parse(s.CIDR)
	if s.BlockSize == 0 {
		s.BlockSize = 26 + p.Addr().BitLen() - 32
	}
	if len(s.AllowedUses) == 0 {
		s.AllowedUses = []string{string(Workload), string(Tunnel)}
	}
	return cluster.Pool{
		Name: name, CIDR: p, BlockSize: s.BlockSize, NodeSelector: s.NodeSelector, NamespaceSelector: s.NamespaceSelector, Disabled: s.Disabled,
		AllowedUses: s.AllowedUses, Manual: s.AssignmentMode == "Manual",
	}, err
}

// TestShortKeys checks the translation between the recordings' keys and ours.
func TestShortKeys(t *testing.T) {
	p := netip.MustParsePrefix("fd00::/122")
	for _, key := range []store.Key{blockKey(p), affinityKey("n.1", p), handleKey("a.b"), configKey()} {
		if got := storeKey(keyText(key)); got != key {
			t.Errorf("%s reads back as %s", key, got)
		}
	}
	if short, ok := shortKey("/calico/ipam/v2/assignment/ipv6/block/" + names.Block(p)); !ok || storeKey(short) != blockKey(p) {
		t.Errorf("etcd key of %s: %s", p, short)
	}
}
