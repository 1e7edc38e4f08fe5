// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	v3 "github.com/ocicat-net/ocicat/api/v3"
)

// column makes a Column of a function on one kind's type.
func column[T Object](title string, value func(T) string) Column {
	return Column{Title: title, Value: func(o Object) string {
		typed, ok := o.(T)
		if !ok {
			return ""
		}
		return value(typed)
	}}
}

func wide(c Column) Column {
	c.Wide = true
	return c
}

var poolColumns = []Column{
	column("CIDR", func(p *v3.IPPool) string { return p.Spec.CIDR }),
	column("BLOCK", func(p *v3.IPPool) string { return "/" + strconv.Itoa(p.Spec.BlockSize) }),
	column("IPIP", func(p *v3.IPPool) string { return p.Spec.IPIPMode }),
	column("VXLAN", func(p *v3.IPPool) string { return p.Spec.VXLANMode }),
	column("NAT", func(p *v3.IPPool) string { return strconv.FormatBool(p.Spec.NATOutgoing) }),
	column("DISABLED", func(p *v3.IPPool) string { return strconv.FormatBool(p.Spec.Disabled) }),
	column("NODES", func(p *v3.IPPool) string { return p.Spec.NodeSelector }),
	wide(column("EXPORT", func(p *v3.IPPool) string { return strconv.FormatBool(!p.Spec.DisableBGPExport) })),
	wide(column("ASSIGNMENT", func(p *v3.IPPool) string { return p.Spec.AssignmentMode })),
	wide(column("USES", func(p *v3.IPPool) string { return strings.Join(p.Spec.AllowedUses, ",") })),
}

var reservationColumns = []Column{
	column("CIDRS", func(r *v3.IPReservation) string { return strings.Join(r.Spec.ReservedCIDRs, ",") }),
}

var ipamColumns = []Column{
	column("STRICT", func(c *v3.IPAMConfiguration) string { return strconv.FormatBool(c.Spec.StrictAffinity) }),
	column("AUTO BLOCKS", func(c *v3.IPAMConfiguration) string { return strconv.FormatBool(c.AutoAllocate()) }),
	column("MAX BLOCKS", func(c *v3.IPAMConfiguration) string { return strconv.Itoa(c.Spec.MaxBlocksPerHost) }),
}

var bgpColumns = []Column{
	column("AS", func(c *v3.BGPConfiguration) string { return strconv.FormatUint(uint64(c.AS()), 10) }),
	column("MESH", func(c *v3.BGPConfiguration) string { return strconv.FormatBool(c.Mesh()) }),
	column("PORT", func(c *v3.BGPConfiguration) string {
		if c.Spec.ListenPort == 0 {
			return "179"
		}
		return strconv.Itoa(c.Spec.ListenPort)
	}),
}

var peerColumns = []Column{
	column("PEER", func(p *v3.BGPPeer) string {
		if p.Spec.PeerSelector != "" {
			return p.Spec.PeerSelector
		}
		return p.Spec.PeerIP
	}),
	column("NODE", func(p *v3.BGPPeer) string {
		switch {
		case p.Spec.Node != "":
			return p.Spec.Node
		case p.Spec.NodeSelector != "":
			return p.Spec.NodeSelector
		}
		return "(global)"
	}),
	column("AS", func(p *v3.BGPPeer) string { return strconv.FormatUint(uint64(p.Spec.ASNumber), 10) }),
}

var nodeColumns = []Column{
	column("ADDRESS", func(n *v3.Node) string {
		if n.Spec.BGP == nil {
			return ""
		}
		return n.Spec.BGP.IPv4Address
	}),
	column("AS", func(n *v3.Node) string {
		if n.Spec.BGP == nil || n.Spec.BGP.ASNumber == nil {
			return "(cluster's)"
		}
		return strconv.FormatUint(uint64(*n.Spec.BGP.ASNumber), 10)
	}),
	wide(column("LABELS", func(n *v3.Node) string { return labels(n.Metadata.Labels) })),
}

var configColumns = []Column{
	column("PROTOCOL", func(c *v1.OcicatConfiguration) string { return strconv.Itoa(c.Protocol()) }),
	column("METRIC", func(c *v1.OcicatConfiguration) string { return fmt.Sprint(c.Metric()) }),
	column("RESERVE", func(c *v1.OcicatConfiguration) string { return strconv.Itoa(c.Reserve()) }),
	column("PERM GATEWAY", func(c *v1.OcicatConfiguration) string { return strconv.FormatBool(c.PermGateway()) }),
}

var statusColumns = []Column{
	column("ADDRESS", func(n *v1.NodeStatus) string { return n.Status.Address }),
	column("READY", func(n *v1.NodeStatus) string { return strconv.FormatBool(n.Status.Ready) }),
	column("PODS", func(n *v1.NodeStatus) string { return strconv.Itoa(n.Status.Counts.Pods) }),
	column("PROBLEMS", func(n *v1.NodeStatus) string { return strconv.Itoa(len(n.Status.Problems)) }),
	column("AGENT", func(n *v1.NodeStatus) string { return n.Status.Agent.Version }),
}

// labels prints labels sorted, as a=b,c=d.
func labels(m map[string]string) string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, key+"="+m[key])
	}
	return strings.Join(list, ",")
}
