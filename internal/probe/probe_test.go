// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/probe"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// router is three namespaces in a row: a – r – b.
type router struct{ a, r, b *os.File }

func newRouter(t *testing.T) router {
	t.Helper()
	a, r, b := nstest.New(t), nstest.New(t), nstest.New(t)
	nstest.Veth(a, "eth0", r, "left")
	nstest.Veth(b, "eth0", r, "right")
	a.IP("addr add 10.0.1.2/24 dev eth0")
	b.IP("addr add 10.0.2.2/24 dev eth0")
	r.IP("addr add 10.0.1.1/24 dev left")
	r.IP("addr add 10.0.2.1/24 dev right")
	a.IP("route add default via 10.0.1.1")
	b.IP("route add default via 10.0.2.1")
	r.SetSysctl("net/ipv4/ip_forward", "1")
	return router{a.File(), r.File(), b.File()}
}

// kernels are the three namespaces as one site.
func (r router) kernels(t *testing.T) *probe.Kernels {
	t.Helper()
	k := probe.NewKernels(t.Context())
	for at, ns := range map[trace.Place]*os.File{{Node: "r", Pod: "a"}: r.a, {Node: "r"}: r.r, {Node: "r", Pod: "b"}: r.b} {
		if err := k.Add(at, ns); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func (r router) taps() []probe.Tap {
	return []probe.Tap{
		{At: trace.Place{Node: "r", Pod: "a"}, Dev: "eth0"},
		{At: trace.Place{Node: "r"}, Dev: "left"},
		{At: trace.Place{Node: "r"}, Dev: "right"},
		{At: trace.Place{Node: "r", Pod: "b"}, Dev: "eth0"},
	}
}

// Every interface sees the request and the reply once, with falling TTLs, and
// nothing of other traffic.
func TestProbeIsSeenOnEveryInterface(t *testing.T) {
	r := newRouter(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	result, err := probe.Run(ctx, r.kernels(t), probe.Sender{At: trace.Place{Node: "r", Pod: "a"}, Addr: netip.MustParseAddr("10.0.1.2")}, netip.MustParseAddr("10.0.2.2"), r.taps(), 8)
	if err != nil {
		t.Fatal(err)
	}
	ttls := map[string][2]int{}
	for _, f := range result.Frames() {
		if f.Length != trace.EchoLength {
			t.Errorf("%s %s: frame of %d bytes, want %d", f.At, f.Dev, f.Length, trace.EchoLength)
		}
		at := ttls[f.At.String()+" "+f.Dev]
		if f.Reply {
			at[1] = f.TTL
		} else {
			at[0] = f.TTL
		}
		ttls[f.At.String()+" "+f.Dev] = at
	}
	want := map[string][2]int{"pod a eth0": {64, 63}, "r left": {64, 63}, "r right": {63, 64}, "pod b eth0": {63, 64}}
	for place, ttl := range want {
		if ttls[place] != ttl {
			t.Errorf("%s: TTL of request and reply %v, want %v", place, ttls[place], ttl)
		}
	}
	if len(result.Captures) != 8 || result.ReplyTTL != 63 || result.RTT <= 0 {
		t.Errorf("%d frames, reply ttl %d, rtt %v", len(result.Captures), result.ReplyTTL, result.RTT)
	}
	var pcap bytes.Buffer
	if err := probe.WritePcap(&pcap, result.Captures); err != nil || pcap.Len() != 24+8*(16+98) {
		t.Errorf("pcap of %d bytes, %v", pcap.Len(), err)
	}
}

// A probe nobody answers is a result with the frames there are, and an
// interface that does not exist is no error.
func TestProbeWithoutAnswer(t *testing.T) {
	r := newRouter(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	taps := append(r.taps(), probe.Tap{At: trace.Place{Node: "r"}, Dev: "gone"})
	result, err := probe.Run(ctx, r.kernels(t), probe.Sender{At: trace.Place{Node: "r", Pod: "a"}, Addr: netip.MustParseAddr("10.0.1.2")}, netip.MustParseAddr("10.0.3.2"), taps, 8)
	if err != nil || len(result.Captures) != 2 || result.ReplyTTL != 0 {
		t.Errorf("%v, %d frames, reply ttl %d: want the request on two interfaces", err, len(result.Captures), result.ReplyTTL)
	}
}
