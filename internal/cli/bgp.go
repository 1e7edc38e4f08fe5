// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

func newBGPCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "bgp", Short: "Show BGP sessions and routes"}
	c.AddCommand(newBGPPeersCommand(g), newBGPRoutesCommand(g))
	return c
}

func newBGPPeersCommand(g *globals) *cobra.Command {
	var down bool
	c := &cobra.Command{
		Use:   "peers",
		Short: "Show the BGP sessions of all nodes",
		Long: `Show every BGP session as its node sees it, with the reason why it is down
or why it last fell. Each session between two nodes appears twice.

Exit code 10 means that a session is down.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.bgpPeers(c.Context(), down) },
	}
	c.Flags().BoolVar(&down, "down", false, "show only sessions that are not Established")
	return c
}

// nodeSession is a session with the node that reports it.
type nodeSession struct {
	Node string `json:"node"`
	v1.Session
	Reported time.Time `json:"reported,omitzero"` // when the node said so
}

func (g *globals) bgpPeers(ctx context.Context, down bool) error {
	list, err := g.statuses(ctx)
	if err != nil {
		asked, askErr := g.reports(ctx)
		if askErr != nil || len(asked) == 0 {
			return err
		}
		g.warn("%v: showing what the agents within reach say", err)
		list = asked
	}
	sessions := []nodeSession{}
	anyDown := false
	for _, s := range list {
		for _, session := range s.Status.Sessions {
			isDown := session.State != string(speaker.Established)
			anyDown = anyDown || isDown
			if isDown || !down {
				sessions = append(sessions, nodeSession{s.Metadata.Name, session, s.Status.Heartbeat})
			}
		}
	}
	if err := g.show(sessions, nil, func(bool) *table { return g.peersTable(sessions) }); err != nil {
		return err
	}
	if anyDown {
		return errProblems
	}
	return nil
}

func (g *globals) peersTable(sessions []nodeSession) *table {
	t := newTable("NODE", "PEER", "NAME", "TYPE", "AS", "STATE", "UP", "RCVD", "SENT", "REASON")
	for _, s := range sessions {
		up, rcvd, sent := "–", "–", "–"
		state := g.paint(bad, s.State)
		if s.State == string(speaker.Established) {
			state, up = s.State, g.age(s.Since)
			rcvd, sent = strconv.Itoa(s.Received), strconv.Itoa(s.Sent)
		} else if s.Stale {
			rcvd = strconv.Itoa(s.Received) + " stale"
		}
		t.add(s.Node, s.Peer, dash(s.Name), s.Type, strconv.FormatUint(uint64(s.AS), 10), state, up, rcvd, sent, s.Reason)
	}
	return t
}

func newBGPRoutesCommand(g *globals) *cobra.Command {
	var why bool
	c := &cobra.Command{
		Use:   "routes [PREFIX]",
		Short: "Show learned routes, and what became of them in the kernel",
		Long: `Show every prefix learned by BGP, on each node within reach, with what the
kernel holds for it. With --why, show each path and what decided for it.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var prefix netip.Prefix
			if len(args) == 1 {
				var err error
				if prefix, err = parsePrefix(args[0]); err != nil {
					return err
				}
			}
			if why {
				return g.bgpPaths(c.Context(), prefix)
			}
			return g.bgpRoutes(c.Context(), prefix)
		},
	}
	c.Flags().BoolVar(&why, "why", false, "show all paths and what decided between them")
	return c
}

func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.Prefix{}, usageError{fault.Hint(fault.New(fault.Invalid, "prefix %q: not an address or prefix", s), "Write it as 172.16.109.64/26.")}
}

// nodeRoute is a learned route with the node that has it.
type nodeRoute struct {
	Node string `json:"node"`
	admin.Route
}

// nodePath is a path with the node that knows it.
type nodePath struct {
	Node string `json:"node"`
	speaker.Path
}

func (g *globals) bgpRoutes(ctx context.Context, only netip.Prefix) error {
	routes := []nodeRoute{}
	all, err := askAll(ctx, g, func(ctx context.Context, agent *admin.Client) ([]admin.Route, error) { return agent.Routes(ctx) })
	if err != nil {
		return err
	}
	for _, said := range all {
		for _, r := range said.value {
			if !only.IsValid() || r.Prefix.Overlaps(only) {
				routes = append(routes, nodeRoute{said.node, r})
			}
		}
	}
	return g.show(routes, nil, func(bool) *table {
		t := newTable("NODE", "PREFIX", "FROM", "STATE", "KERNEL", "REASON")
		for _, r := range routes {
			state := r.State
			if state != "installed" && state != "own" {
				state = g.paint(bad, state)
			}
			t.add(r.Node, r.Prefix.String(), r.From, state, dash(r.Kernel), r.Reason)
		}
		return t
	})
}

func (g *globals) bgpPaths(ctx context.Context, only netip.Prefix) error {
	paths := []nodePath{}
	all, err := askAll(ctx, g, func(ctx context.Context, agent *admin.Client) ([]speaker.Path, error) { return agent.Paths(ctx) })
	if err != nil {
		return err
	}
	for _, said := range all {
		for _, p := range said.value {
			if !only.IsValid() || p.Prefix.Overlaps(only) {
				paths = append(paths, nodePath{said.node, p})
			}
		}
	}
	return g.show(paths, nil, func(bool) *table {
		t := newTable("NODE", "PREFIX", "", "NEXT HOP", "FROM", "LOCALPREF", "MED", "AS PATH", "ORIGIN", "WHY")
		for _, p := range paths {
			best := ""
			if p.Best {
				best = "best"
			}
			from := "self"
			switch {
			case p.FromName != "":
				from = p.FromName
			case p.From.IsValid():
				from = p.From.String()
			}
			t.add(p.Node, p.Prefix.String(), best, p.NextHop.String(), from, fmt.Sprint(p.LocalPref), fmt.Sprint(p.MED), dash(asPath(p.ASPath)), p.Origin, p.Why)
		}
		return t
	})
}

func asPath(path []speaker.ASN) string {
	words := make([]string, len(path))
	for i, as := range path {
		words[i] = fmt.Sprint(as)
	}
	return joined(words)
}

// compareNatural orders names so that node-2 stands before node-10.
func compareNatural(a, b string) int {
	if len(a) != len(b) && trimDigits(a) == trimDigits(b) {
		return len(a) - len(b)
	}
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

func trimDigits(s string) string {
	for s != "" && s[len(s)-1] >= '0' && s[len(s)-1] <= '9' {
		s = s[:len(s)-1]
	}
	return s
}
