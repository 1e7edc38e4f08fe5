// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/cidr"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/selector"
)

// Use is what an address is for; pools can be kept for some uses.
type Use string

// The uses.
const (
	Workload     Use = "Workload"
	Tunnel       Use = "Tunnel"
	LoadBalancer Use = "LoadBalancer"
)

// request says which pools an assignment may come from.
type request struct {
	node      string
	use       Use
	family    int               // 4 or 6
	pools     []string          // names or CIDRs; none means all that suit
	namespace map[string]string // labels of the pod's namespace, nil where they are not known
}

// poolsFor are the pools r may be served from: those it names, in its order,
// or all automatic ones that select node and namespace, by name.
func (c *Client) poolsFor(ctx context.Context, r request) ([]cluster.Pool, error) {
	all, err := c.Pools(ctx)
	if err != nil {
		return nil, err
	}
	labels, err := c.NodeLabels(ctx, r.node)
	if err != nil {
		return nil, err
	}
	return choosePools(all, labels, r)
}

// choosePools chooses among all pools for a node with the given labels. Where
// no pool suits, the error says for each why not: Invalid where the request
// named them, else Exhausted.
func choosePools(all []cluster.Pool, labels map[string]string, r request) ([]cluster.Pool, error) {
	kind, candidates := fault.Exhausted, slices.Clone(all)
	slices.SortFunc(candidates, func(a, b cluster.Pool) int { return cmp.Compare(a.Name, b.Name) })
	if len(r.pools) > 0 {
		var err error
		if candidates, err = namedPools(all, r); err != nil {
			return nil, err
		}
		kind = fault.Invalid
	}
	var suit []cluster.Pool
	var passed []string
	for _, p := range candidates {
		why := unfit(p, r)
		if why == "" && len(r.pools) == 0 {
			why = unselected(p, labels, r)
		}
		if why == "" {
			suit = append(suit, p)
		} else {
			passed = append(passed, p.Name+" "+why)
		}
	}
	if len(suit) > 0 {
		return suit, nil
	}
	if len(passed) == 0 {
		passed = []string{"there is no pool"}
	}
	return nil, fault.Hint(fault.New(kind, "no IPv%d pool for %s on node %s: %s", r.family, r.use, r.node, strings.Join(passed, "; ")),
		"create an IPPool that suits, or change one of these: ocicat get ippool -o yaml")
}

// namedPools are the pools a request names, in its order, each once. One that
// does not exist, takes no addresses, or is of the other family is Invalid.
func namedPools(all []cluster.Pool, r request) ([]cluster.Pool, error) {
	var found []cluster.Pool
	for _, want := range r.pools {
		at := slices.IndexFunc(all, func(p cluster.Pool) bool { return p.Name == want || p.CIDR.String() == want })
		if at < 0 {
			return nil, fault.Hint(fault.New(fault.Invalid, "pool %s does not exist", want), "the pools are %s", poolNames(all))
		}
		p := all[at]
		why := closed(p)
		if why == "" && cidr.Family(p.CIDR.Addr()) != r.family {
			why = fmt.Sprintf("is not of IPv%d", r.family)
		}
		if why != "" {
			return nil, fault.Hint(fault.New(fault.Invalid, "pool %s %s", want, why), "ask for another pool, or for none")
		}
		if !slices.ContainsFunc(found, func(f cluster.Pool) bool { return f.Name == p.Name }) {
			found = append(found, p)
		}
	}
	return found, nil
}

// closed says why no new address comes from p for anybody, "" if one may.
func closed(p cluster.Pool) string {
	switch {
	case p.Disabled:
		return "is disabled"
	case p.Unusable != "":
		return p.Unusable
	case !alloc.Fits(p.CIDR, p.BlockSize):
		return fmt.Sprintf("has blocks of /%d, which do not fit %s", p.BlockSize, p.CIDR)
	}
	return ""
}

// unfit says why p cannot serve r even where r names it, "" if it can.
func unfit(p cluster.Pool, r request) string {
	switch why := closed(p); {
	case why != "":
		return why
	case cidr.Family(p.CIDR.Addr()) != r.family:
		return fmt.Sprintf("is not of IPv%d", r.family)
	case !allows(p, r.use):
		return fmt.Sprintf("has allowedUses %v", p.AllowedUses)
	}
	return ""
}

// unselected says why p does not offer itself for r, "" if it does. A selector
// that cannot be read selects nothing.
func unselected(p cluster.Pool, labels map[string]string, r request) string {
	switch {
	case p.Manual:
		return "has assignmentMode Manual: it must be named"
	case !matches(p.NodeSelector, labels):
		return fmt.Sprintf("has nodeSelector %s, which does not select the node", p.NodeSelector)
	case p.NamespaceSelector == "":
		return ""
	case r.namespace == nil:
		return fmt.Sprintf("has namespaceSelector %s, and the namespace's labels are not known", p.NamespaceSelector)
	case !matches(p.NamespaceSelector, r.namespace):
		return fmt.Sprintf("has namespaceSelector %s, which does not select the namespace", p.NamespaceSelector)
	}
	return ""
}

func matches(text string, labels map[string]string) bool {
	s, err := selector.Parse(text)
	return err == nil && s.Matches(labels)
}

func allows(p cluster.Pool, use Use) bool {
	return len(p.AllowedUses) == 0 || slices.Contains(p.AllowedUses, string(use))
}

func poolNames(pools []cluster.Pool) string {
	names := make([]string, len(pools))
	for i, p := range pools {
		names[i] = p.Name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// reserved are the ranges that IPReservations keep from being assigned
// unasked.
type reserved []netip.Prefix

func (c *Client) reserved(ctx context.Context) (reserved, error) {
	if c.Reservations == nil {
		return nil, nil
	}
	return c.Reservations(ctx)
}

// has reports whether addr is reserved.
func (r reserved) has(addr netip.Addr) bool {
	return slices.ContainsFunc(r, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// leaves reports whether no range reserves the whole of p.
func (r reserved) leaves(p netip.Prefix) bool {
	return !slices.ContainsFunc(r, func(outer netip.Prefix) bool { return cidr.Covers(outer, p) })
}

// CountReserved is how many addresses of p lie in the ranges, which may overlap
// each other.
func CountReserved(ranges []netip.Prefix, p netip.Prefix) *big.Int { return reserved(ranges).within(p) }

// within counts the reserved addresses of p.
func (r reserved) within(p netip.Prefix) *big.Int {
	n := new(big.Int)
	for i, part := range r {
		switch {
		case !p.IsValid() || !part.Overlaps(p) || r.repeated(i):
		case cidr.Covers(part, p):
			return cidr.Blocks(p, p.Addr().BitLen())
		default:
			n.Add(n, cidr.Blocks(part, part.Addr().BitLen()))
		}
	}
	return n
}

// repeated reports whether another range says all that the i-th says.
func (r reserved) repeated(i int) bool {
	for j, other := range r {
		if j != i && cidr.Covers(other, r[i]) && (other != r[i] || j < i) {
			return true
		}
	}
	return false
}

// count is within for a block.
func (r reserved) count(block netip.Prefix) int { return int(r.within(block).Int64()) }
