// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/probe"
	"github.com/ocicat-net/ocicat/internal/trace"
)

func newTraceCommand(g *globals) *cobra.Command {
	var opts traceOptions
	c := &cobra.Command{
		Use:   "trace POD POD|ADDRESS",
		Short: "Predict a packet's path from a pod and prove it",
		Long: `Predict the path of an ICMP echo between two pods and of its reply from the
state of the kernels on the way (routes by the kernel's own lookup, neighbours,
links, settings), then send one and capture it on every interface. Each
difference is a finding with its node and interface.

A pod is named NAMESPACE/NAME, by its address, or by what is unique: NAME, or
the beginning or end of NAME. On Kubernetes the agents ask their kernels. On a
node and in a lab nothing is asked of the agents: the path is the kernels', also
when agents are stopped; this needs root, as it enters the pods' namespaces.

To an ADDRESS that is no pod's the path is predicted until it leaves the node,
and with which source: natOutgoing gives it the node's.

With -o wide the reply's path is shown too, and which frames were captured.
Exit code 10 means that there are findings.`,
		Example: `  ocicat trace devops/web-0 devops/web-1
  ocicat trace web-0 172.16.109.65 --no-send
  ocicat trace web-0 192.0.2.1 -o wide`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return g.trace(c.Context(), args[0], args[1], opts) },
	}
	f := c.Flags()
	f.BoolVar(&opts.noSend, "no-send", false, "predict only, send nothing")
	f.StringVar(&opts.pcap, "pcap", "", "write the captured frames to `FILE`")
	f.DurationVar(&opts.timeout, "timeout", 2*time.Second, "wait this long for the reply")
	return c
}

// surpriseWait is how long a packet is looked for that was predicted to be
// lost.
const surpriseWait = 500 * time.Millisecond

type traceOptions struct {
	noSend  bool
	pcap    string
	timeout time.Duration
}

// traceResult is what trace found out.
type traceResult struct {
	From       trace.Endpoint   `json:"from"`
	To         trace.Endpoint   `json:"to"`
	Prediction trace.Prediction `json:"prediction"`
	Captured   []trace.Frame    `json:"captured,omitempty"`
	RTT        string           `json:"rtt,omitempty"`
	ReplyTTL   int              `json:"replyTTL,omitempty"`
	Findings   []trace.Finding  `json:"findings"`
	Sent       bool             `json:"sent"`
}

func (g *globals) trace(ctx context.Context, from, to string, opts traceOptions) error {
	if opts.noSend && opts.pcap != "" {
		return usageError{fault.New(fault.Invalid, "--no-send and --pcap: nothing is captured when nothing is sent")}
	}
	world, err := g.openWorld(ctx)
	if err != nil {
		return err
	}
	defer world.close()
	source, err := world.find(from)
	if err != nil {
		return err
	}
	target, err := world.find(to)
	if addr, ok := isAddr(to); ok && addr.Is4() && fault.Is(err, fault.NotFound) {
		target, err = trace.Outside(addr), nil
	}
	if err != nil {
		return err
	}
	if source.Addr == target.Addr {
		return usageError{fault.New(fault.Invalid, "%s and %s are the same pod: want two", from, to)}
	}
	result, captures, err := world.trace(ctx, source, target, opts)
	if err != nil {
		return err
	}
	if opts.pcap != "" {
		if err := writePcap(opts.pcap, captures); err != nil {
			return err
		}
	}
	if g.output == "json" || g.output == "yaml" {
		err = g.show(result, nil, nil)
	} else {
		err = g.printTrace(g.stdout, result)
	}
	if err == nil && len(result.Findings) > 0 {
		return errProblems
	}
	return err
}

// trace predicts, sends and compares.
func (w *world) trace(ctx context.Context, from, to trace.Endpoint, opts traceOptions) (traceResult, []probe.Capture, error) {
	result := traceResult{From: from, To: to}
	var err error
	if result.Prediction, err = trace.Predict(w.site, w.nodes, from, to); err != nil {
		return result, nil, err
	}
	result.Findings = append([]trace.Finding{}, result.Prediction.Findings...)
	if opts.noSend {
		return result, nil, nil
	}
	expected := len(result.Prediction.Frames())
	if result.Prediction.Outside {
		expected *= 2 // the reply, which may not come
	}
	if !result.Prediction.Delivered { // look for frames that ought not to come, but not for long
		opts.timeout, expected = min(opts.timeout, surpriseWait), 0
	}
	wait, cancel := context.WithTimeout(ctx, opts.timeout)
	defer cancel()
	run, err := probe.Run(wait, w.site, probe.Sender{At: from.Place, Addr: from.Addr}, to.Addr, taps(result.Prediction, from, to), expected)
	if fault.Is(err, fault.NotFound) { // the prediction says so, and there is nowhere to send from
		return result, nil, nil
	}
	if err != nil {
		return result, nil, err
	}
	slices.SortStableFunc(run.Captures, func(a, b probe.Capture) int {
		return cmp.Compare(result.Prediction.Position(a.Frame), result.Prediction.Position(b.Frame))
	})
	result.Sent, result.Captured = true, run.Frames()
	if run.RTT > 0 {
		result.RTT, result.ReplyTTL = fmt.Sprintf("%.2f ms", float64(run.RTT.Microseconds())/1000), run.ReplyTTL
	}
	result.Prediction.Learn(result.Captured)
	result.Findings = append(result.Findings, trace.Compare(result.Prediction, result.Captured)...)
	return result, run.Captures, nil
}

// taps are the interfaces to listen on: those of the prediction, and the four
// ends of the two pods in any case.
func taps(p trace.Prediction, from, to trace.Endpoint) []probe.Tap {
	var taps []probe.Tap
	add := func(at trace.Place, dev string) {
		if tap := (probe.Tap{At: at, Dev: dev}); !slices.Contains(taps, tap) {
			taps = append(taps, tap)
		}
	}
	for _, f := range p.Frames() {
		add(f.At, f.Dev)
	}
	for _, end := range []trace.Endpoint{from, to} {
		if end.Place == (trace.Place{}) {
			continue // outside
		}
		add(end.Place, end.IfName)
		add(trace.Place{Node: end.Node}, end.HostIf)
	}
	return taps
}

func (g *globals) printTrace(w io.Writer, r traceResult) error {
	fmt.Fprintf(w, "ICMP %s → %s   %s\n", r.From.Addr, r.To.Addr, g.verdict(r))
	if err := g.walkTable(r).write(w); err != nil {
		return err
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s %s\n", g.paint(bad, "✗"), f)
		if f.Remedy != "" {
			fmt.Fprintf(w, "  %s\n", f.Remedy)
		}
	}
	if r.Prediction.Outside {
		return nil
	}
	if r.Prediction.Delivered {
		fmt.Fprintf(w, "tunnel: none   mtu: %d end to end\n", r.Prediction.MTU)
	}
	return nil
}

// walkTable is one line for each hop: of the packet alone while all is well,
// of the reply too where something is not, and with -o wide.
func (g *globals) walkTable(r traceResult) *table {
	wide := g.output == "wide"
	hops := slices.Clone(r.Prediction.Request)
	if wide || len(r.Findings) > 0 {
		hops = append(hops, r.Prediction.Reply...)
	}
	header := []string{"#", "WHERE", "SRC MAC", "DST MAC", "TTL"}
	if wide {
		header = append(header, "SRC IP", "DST IP", "SEEN")
	}
	t := newTable(append(header, "DECISION")...)
	for i, hop := range hops {
		where := hop.At.Node + " " + hop.Dev
		if hop.At.Pod != "" {
			where = "pod " + hop.Dev
		}
		row := []string{strconv.Itoa(i + 1), where, hop.SrcMAC.String(), hop.DstMAC.String(), strconv.Itoa(hop.TTL)}
		if wide {
			row = append(row, hop.Src.String(), hop.Dst.String(), g.seen(r, hop.Frame))
		}
		decision := hop.Decision
		if r.ReplyTTL > 0 && i == len(r.Prediction.Request)-1 {
			decision += fmt.Sprintf("; reply seen ttl %d, rtt %s", r.ReplyTTL, r.RTT)
		}
		t.add(append(row, decision)...)
	}
	return t
}

// seen says whether a predicted frame was captured.
func (g *globals) seen(r traceResult, f trace.Frame) string {
	switch {
	case !r.Sent:
		return "–"
	case slices.Contains(r.Captured, f):
		return g.paint(good, "✓")
	}
	return g.paint(bad, "✗")
}

// verdict is the result in one phrase.
func (g *globals) verdict(r traceResult) string {
	broken := slices.ContainsFunc(r.Findings, func(f trace.Finding) bool { return f.Severity == trace.Break })
	switch {
	case broken:
		return g.paint(bad, "the path is broken")
	case len(r.Findings) > 0:
		return g.paint(warned, "the packet arrives, but not all is as it should be")
	case !r.Sent:
		return "predicted, nothing sent"
	}
	return "predicted and observed agree"
}

// writePcap writes captured frames as a pcap file, to be read by tcpdump or
// Wireshark; a file that exists is replaced.
func writePcap(path string, captures []probe.Capture) error {
	var b bytes.Buffer
	err := probe.WritePcap(&b, captures)
	if err == nil {
		err = os.WriteFile(path, b.Bytes(), 0o644)
	}
	if err != nil {
		return fault.Hint(fault.New(fault.Invalid, "write captured frames: %w", err), "Name a file that can be written with --pcap.")
	}
	return nil
}

// isAddr reads a pod named by its address.
func isAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil
}
