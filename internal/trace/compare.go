// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"slices"
	"strings"
)

// Compare holds the captured frames of one probe against the prediction and
// returns every difference as a finding, at the place where it shows. Frames
// may come in any order; those of other packets must have been left out.
func Compare(p Prediction, captured []Frame) []Finding {
	var findings []Finding
	left := append([]Frame(nil), captured...)
	lost := false
	for _, hops := range [][]Hop{p.Request, p.Reply} {
		for i, hop := range hops {
			at := match(left, hop.Frame)
			if at < 0 {
				findings, lost = append(findings, missing(hops, i)), true
				break // what follows cannot have been seen either
			}
			findings = append(findings, differences(hop.Frame, left[at])...)
			left = append(left[:at], left[at+1:]...)
		}
		if lost {
			break
		}
	}
	if f, ok := surprise(p, left); ok {
		findings = append(findings, f)
	}
	if f, ok := unanswered(p, left); ok && !lost {
		findings = append(findings, f)
	}
	if p.Delivered && !lost {
		for _, f := range left {
			if p.Outside && f.Reply {
				continue // how many routers it crossed is not known
			}
			findings = append(findings, Finding{Severity: Deviation, At: f.At, Dev: f.Dev, Text: fmt.Sprintf("a frame nobody predicted: %s → %s ttl %d", f.SrcMAC, f.DstMAC, f.TTL)})
		}
	}
	return findings
}

// surprise is a reply that reached the sender against the prediction.
func surprise(p Prediction, left []Frame) (Finding, bool) {
	if p.Delivered || len(p.Request) == 0 {
		return Finding{}, false
	}
	sender := p.Request[0]
	arrived := slices.ContainsFunc(left, func(f Frame) bool { return f.Reply && f.At == sender.At })
	return Finding{Severity: Deviation, At: sender.At, Dev: sender.Dev, Text: "a reply arrived, though the packet was predicted to be lost"}, arrived
}

// match finds the captured frame of a predicted one by place, device and
// direction.
func match(frames []Frame, want Frame) int {
	for i, f := range frames {
		if f.At == want.At && f.Dev == want.Dev && f.Reply == want.Reply {
			return i
		}
	}
	return -1
}

// missing says where the packet was lost: behind the last place that saw it.
func missing(hops []Hop, i int) Finding {
	hop := hops[i]
	what := "the probe"
	if hop.Reply {
		what = "the reply"
	}
	f := Finding{Severity: Break, At: hop.At, Dev: hop.Dev, Text: what + " was predicted here and not seen"}
	if i > 0 {
		last := hops[i-1]
		f.Text += fmt.Sprintf("; last seen on %s %s", last.At, last.Dev)
	}
	return f
}

func differences(want, got Frame) []Finding {
	var parts []string
	add := func(name string, want, got any) {
		if want != got {
			parts = append(parts, fmt.Sprintf("%s %v, predicted %v", name, got, want))
		}
	}
	add("source MAC", want.SrcMAC.String(), got.SrcMAC.String())
	add("destination MAC", want.DstMAC.String(), got.DstMAC.String())
	add("source", want.Src, got.Src)
	add("destination", want.Dst, got.Dst)
	add("ttl", want.TTL, got.TTL)
	add("length", want.Length, got.Length)
	if len(parts) == 0 {
		return nil
	}
	return []Finding{{Severity: Deviation, At: got.At, Dev: got.Dev, Text: "captured " + strings.Join(parts, "; ")}}
}
