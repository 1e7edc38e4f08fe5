// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/lab/article"
	"github.com/ocicat-net/ocicat/internal/netns"
)

// demoName is the lab of the demo: not the default, which may be in use.
const demoName = "demo"

func (g *globals) labDemo(f *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Bring up the article's cluster, walk its packets, compare every value, clean up",
		Long: `Bring up the article's cluster in a lab of its own, attach its pods, walk a
packet across hosts and on one host (each hop predicted from the kernels' state
and confirmed by a captured packet), compare every value with the article's,
and remove the lab, also when interrupted.

Exit code 10 means that a value differs.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			name := f.name
			if name == "" {
				name = demoName
			}
			l, err := (&labFlags{name: name, binDir: f.binDir}).open(g)
			if err != nil {
				return err
			}
			return (&demo{g: g, lab: l, progress: g.progress()}).run(c.Context())
		},
	}
}

// demo is one run of the demo.
type demo struct {
	g        *globals
	lab      *lab.Lab
	progress lab.Progress
	world    *world
	coredns  string // coredns's interface in this lab
	differs  []string
}

func (d *demo) run(ctx context.Context) (err error) {
	if err := d.step("host check", func() ([]string, error) { return lab.CheckHost() }); err != nil {
		return err
	}
	if names, err := lab.Names(d.g.LabDir); err != nil || slices.Contains(names, d.lab.Name()) {
		return errors.Join(err, fault.Hint(fault.New(fault.Conflict, "demo: lab %s exists already", d.lab.Name()),
			"Remove it (sudo ocicat lab down --name %s), or name another one with --name.", d.lab.Name()))
	}
	defer func() {
		// An interrupted demo cleans up all the same.
		cleanup := d.step("clean up", func() ([]string, error) { return d.remove(context.WithoutCancel(ctx)) })
		if err = errors.Join(err, cleanup); err == nil {
			err = d.verdict()
		}
	}()
	topology, err := lab.Article(2)
	if err != nil {
		return err
	}
	topology.PermGateway = false // as the article's pods, which ask by ARP
	if err := d.lab.Up(ctx, topology, lab.ArticlePods(2)); err != nil {
		return err
	}
	d.g.lab, d.g.etcd = d.lab.Name(), ""
	if d.world, err = d.g.openWorld(ctx); err != nil {
		return err
	}
	defer d.world.close()
	if err := d.step("state", func() ([]string, error) { return d.compareState(ctx) }); err != nil {
		return err
	}
	for _, w := range []struct {
		name string
		walk article.Walk
	}{{"across hosts", article.AcrossHosts()}, {"same host", article.SameHost()}} {
		if err := d.walk(ctx, w.name, w.walk); err != nil {
			return err
		}
	}
	return nil
}

// step runs f as a step and reports it.
func (d *demo) step(name string, f func() ([]string, error)) error {
	d.progress(lab.Step{Name: name})
	begin := time.Now()
	detail, err := f()
	d.progress(lab.Step{Name: name, Detail: detail, Took: max(time.Since(begin), 1), Err: err})
	return err
}

func (d *demo) remove(ctx context.Context) ([]string, error) {
	r, err := d.lab.Down(ctx)
	return []string{fmt.Sprintf("%d processes, %d network namespaces", r.Processes, r.Namespaces)}, err
}

// differ notes a value that is not the article's.
func (d *demo) differ(format string, args ...any) {
	d.differs = append(d.differs, fmt.Sprintf(format, args...))
}

// verdict says how the comparison went.
func (d *demo) verdict() error {
	if len(d.differs) == 0 {
		_, err := fmt.Fprintf(d.g.stdout, "\nEvery value above equals the article's, but %s, the interface of coredns: it is made of\nthe pod's name, which the article does not tell. Keep a lab: sudo bin/ocicat lab up\n", d.coredns)
		return err
	}
	for _, text := range d.differs {
		d.g.warn("not as in the article: %s", text)
	}
	return errProblems
}

// compareState compares pods, routes, neighbours and settings.
func (d *demo) compareState(ctx context.Context) ([]string, error) {
	state, err := d.lab.State()
	if err != nil {
		return nil, err
	}
	d.comparePods(state)
	var detail []string
	for _, node := range []string{article.Master, article.Worker} {
		lines, err := d.compareNode(ctx, node)
		if err != nil {
			return nil, err
		}
		detail = append(detail, node)
		for _, line := range lines {
			detail = append(detail, "  "+line)
		}
	}
	return detail, nil
}

func (d *demo) comparePods(state *lab.State) {
	byAddr := map[netip.Addr]lab.Pod{}
	for _, p := range state.Pods {
		byAddr[p.Address.Addr()] = p
	}
	for _, want := range article.Pods() {
		got, ok := byAddr[want.Addr]
		switch {
		case !ok || got.Node != want.Node || want.Name != "" && got.String() != want.Name:
			d.differ("address %s on %s is %q's, want %q's", want.Addr, want.Node, got.String(), want.Name)
		case want.HostIf == article.Coredns:
			d.coredns = got.HostIf
		case got.HostIf != want.HostIf:
			d.differ("interface of %s is %s, want %s", want.Name, got.HostIf, want.HostIf)
		}
	}
}

// compareNode compares what a node's kernel holds and returns its routes.
func (d *demo) compareNode(ctx context.Context, node string) ([]string, error) {
	ns, err := netns.Open(filepath.Join(netnsDir, d.lab.Name()+"."+node))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := kernel.OpenAt(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	seen, err := h.Observe(ctx)
	if err != nil {
		return nil, err
	}
	var routes []string
	for _, r := range seen.SortedRoutes() {
		routes = append(routes, r.String())
	}
	d.compareLines("route on "+node, routes, article.Routes(node, d.coredns))
	var neighs []string
	for _, n := range seen.Neighs {
		if n.State == host.Permanent {
			neighs = append(neighs, n.String())
		}
	}
	slices.Sort(neighs)
	if want := article.Neighbours(node); want != nil {
		d.compareLines("neighbour on "+node, neighs, want)
	}
	return routes, d.compareInterfaces(h, node, seen)
}

// compareInterfaces compares MAC and proxy_arp of the pods' interfaces.
func (d *demo) compareInterfaces(h *kernel.Handle, node string, seen host.State) error {
	for name, link := range seen.Links {
		if !strings.HasPrefix(name, "cali") {
			continue
		}
		if mac := link.MAC.String(); mac != "ee:ee:ee:ee:ee:ee" {
			d.differ("MAC of %s on %s is %s", name, node, mac)
		}
		value, err := h.Sysctl("net/ipv4/conf/" + name + "/proxy_arp")
		if err != nil {
			return err
		}
		if value != "1" {
			d.differ("proxy_arp of %s on %s is %s", name, node, value)
		}
	}
	return nil
}

// compareLines compares two sets of lines.
func (d *demo) compareLines(what string, got, want []string) {
	for _, line := range want {
		if !slices.Contains(got, line) {
			d.differ("missing %s: %s", what, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			d.differ("unexpected %s: %s", what, line)
		}
	}
}

// walk traces one of the article's packets, prints it and compares it.
func (d *demo) walk(ctx context.Context, name string, w article.Walk) error {
	from, err := d.world.find(w.From)
	if err != nil {
		return err
	}
	to, err := d.world.find(w.To)
	if err != nil {
		return err
	}
	var result traceResult
	err = d.step(name, func() ([]string, error) {
		if result, _, err = d.world.trace(ctx, from, to, traceOptions{timeout: 5 * time.Second}); err != nil {
			return nil, err
		}
		return []string{fmt.Sprintf("%s → %s: %d frames captured, reply with ttl %d, no tunnel", from.Addr, to.Addr, len(result.Captured), result.ReplyTTL)}, nil
	})
	if err != nil {
		return err
	}
	for _, finding := range result.Findings {
		d.differ("%s", finding)
	}
	for _, f := range w.Missing(result.Captured) {
		d.differ("%s: no frame %s > %s, %s > %s, ttl %d, length %d on %s %s", name, f.SrcMAC, f.DstMAC, f.Src, f.Dst, f.TTL, f.Length, f.At, f.Dev)
	}
	if result.ReplyTTL != w.PingTTL {
		d.differ("%s: the reply arrives with ttl %d, want %d", name, result.ReplyTTL, w.PingTTL)
	}
	return d.printWalk(result)
}

// printWalk prints every hop there and back with the packet and what decided;
// a tick stands where the predicted frame was captured.
func (d *demo) printWalk(r traceResult) error {
	t := newTable("  #", "WHERE", "SRC MAC", "DST MAC", "SRC IP", "DST IP", "TTL", "SEEN", "DECISION")
	for i, hop := range slices.Concat(r.Prediction.Request, r.Prediction.Reply) {
		where := hop.At.Node + " " + hop.Dev
		if hop.At.Pod != "" {
			where = "pod " + hop.Dev
		}
		seen := d.g.paint(bad, "✗")
		if slices.Contains(r.Captured, hop.Frame) {
			seen = d.g.paint(good, "✓")
		}
		t.add(fmt.Sprintf("%3d", i+1), where, hop.SrcMAC.String(), hop.DstMAC.String(), hop.Src.String(), hop.Dst.String(), strconv.Itoa(hop.TTL), seen, hop.Decision)
	}
	return t.write(d.g.stdout)
}
