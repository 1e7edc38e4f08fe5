// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	v1 "github.com/ocicat-net/ocicat/api/v1"
)

// printAddresses prints why each node has its address, and why not another.
func (g *globals) printAddresses(w io.Writer, list []*v1.NodeStatus) error {
	t := newTable("NODE", "ADDRESS", "DEVICE", "SCORE", "WHY")
	for _, s := range list {
		choice := s.Status.AddressChoice
		address, _, _ := strings.Cut(s.Status.Address, "/")
		t.add(s.Metadata.Name, dash(address), dash(s.Status.Uplink), "chosen", dash(choice.Why))
		for _, c := range choice.Candidates {
			score := fmt.Sprint(c.Score)
			if c.LeftOut {
				score = "left out"
			}
			t.add("", c.Address, c.Device, score, cmp.Or(c.Reason, "–"))
		}
	}
	fmt.Fprintln(w)
	return t.write(w)
}
