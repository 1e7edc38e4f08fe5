// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/store"
)

func newIPAMReleaseCommand(g *globals) *cobra.Command {
	var o releaseOptions
	c := &cobra.Command{
		Use:   "release ADDRESS… | --from-report FILE | --handle HANDLE",
		Short: "Release addresses whose pods are gone",
		Long: `Release addresses that nobody uses any more: those named, those of pods and
nodes that "ipam check -o json" found gone, or all of one handle.

An address that may be in use is refused: its node's agent has the pod, or the
node is alive and its agent cannot be asked from here. --force releases it all
the same; if the pod lives, its node takes the address back within a minute, or
reports OC2006 if somebody else got it meanwhile. An address that was given
anew since it was looked at, or since the report, stays held.`,
		Example: `  ocicat ipam release 172.16.196.7
  ocicat ipam check -o json > report.json; ocicat ipam release --from-report report.json`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.parse(args); err != nil {
				return err
			}
			return g.ipamRelease(c.Context(), o)
		},
		Args: cobra.ArbitraryArgs,
	}
	c.Flags().StringVar(&o.report, "from-report", "", "release what `FILE`, a report of ipam check, or - says is gone")
	c.Flags().StringVar(&o.handle, "handle", "", "release all addresses of `HANDLE`")
	c.Flags().BoolVar(&o.force, "force", false, "also release addresses that may be in use")
	return c
}

type releaseOptions struct {
	addrs          []netip.Addr
	report, handle string
	force          bool
}

func (o *releaseOptions) parse(args []string) error {
	ways := 0
	for _, given := range []bool{len(args) > 0, o.report != "", o.handle != ""} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return usageError{fault.Hint(fault.New(fault.Invalid, "ipam release: want addresses, --from-report or --handle, one of them"), "ocicat ipam check finds what can be released.")}
	}
	for _, arg := range args {
		addr, err := netip.ParseAddr(arg)
		if err != nil {
			return usageError{fault.Hint(fault.New(fault.Invalid, "%q: not an address", arg), "Write it as 172.16.196.1.")}
		}
		o.addrs = append(o.addrs, addr)
	}
	return nil
}

// release is one address to be released as it was when it was looked at.
type release struct {
	alloc.Release
	who alloc.Attribute
}

func (g *globals) ipamRelease(ctx context.Context, o releaseOptions) error {
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	client := g.ipamClient(s)
	list, err := g.releases(ctx, client, o)
	if err != nil {
		return err
	}
	pods, err := g.podsWithinReach(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range list {
		if !o.force {
			if err := g.mayRelease(ctx, s, r, pods); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		done, err := client.ReleaseIPs(ctx, []alloc.Release{r.Release})
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("release %s: %w", r.Addr, err))
		case len(done.Freed) == 0:
			g.note("%s was not held", r.Addr)
		default:
			g.line("%s %s, was held by %s", r.Addr, g.paint(good, "released"), r.who)
		}
	}
	if o.handle != "" && len(list) == 0 {
		return client.ReleaseByHandle(ctx, o.handle)
	}
	return flatten(errs)
}

// releases lists what is to be released, each with the allocation it has now
// or had in the report.
func (g *globals) releases(ctx context.Context, client *ipam.Client, o releaseOptions) ([]release, error) {
	if o.report != "" {
		return g.reported(o.report)
	}
	addrs := o.addrs
	if o.handle != "" {
		var err error
		if addrs, err = client.IPsByHandle(ctx, o.handle); err != nil {
			return nil, err
		}
	}
	var list []release
	var errs []error
	for _, addr := range addrs {
		who, sequence, err := client.Allocation(ctx, addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", addr, err))
			continue
		}
		list = append(list, release{alloc.Release{Addr: addr, Handle: who.Handle, Sequence: &sequence}, who})
	}
	return list, flatten(errs)
}

// reported reads what a report of ipam check says can be released.
func (g *globals) reported(file string) ([]release, error) {
	in := g.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.New(fault.Invalid, "%w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read %s: %w", file, err)
	}
	report, err := parseReport(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	var list []release
	for _, f := range report.Findings {
		if f.Releasable() {
			list = append(list, release{alloc.Release{Addr: f.Address, Handle: f.Handle, Sequence: &f.Sequence}, alloc.Attribute{Handle: f.Handle}})
		}
	}
	if len(list) == 0 {
		g.note("the report names no address to release")
	}
	return list, nil
}

// parseReport reads a report of ipam check.
func parseReport(data []byte) (ipamReport, error) {
	var r ipamReport
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fault.Hint(fault.New(fault.Invalid, "not a report: %w", err), "Write one with ocicat ipam check -o json.")
	}
	if r.Version != reportVersion {
		return r, fault.Hint(fault.New(fault.Invalid, "report of version %d, want %d", r.Version, reportVersion), "Write it anew with ocicat ipam check -o json.")
	}
	for _, f := range r.Findings {
		if f.Releasable() && !f.Address.IsValid() {
			return r, fault.New(fault.Invalid, "finding %s of %s: no address", f.What, f.Object)
		}
	}
	return r, nil
}

// mayRelease is nil where nobody can be using the address.
func (g *globals) mayRelease(ctx context.Context, s store.Store, r release, pods []ipam.Pods) error {
	who := r.who
	if who.Secondary == nil { // of a report
		now, _, err := g.ipamClient(s).Allocation(ctx, r.Addr)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		who = now
	}
	asked := false
	for _, p := range pods {
		if pod := p.Addresses[r.Addr]; pod != "" {
			return refuse(r.Addr, fmt.Sprintf("%s on %s has it", pod, p.Node))
		}
		asked = asked || p.Node == who.Secondary[alloc.AttrNode]
	}
	node := who.Secondary[alloc.AttrNode]
	if node == "" || asked && who.Secondary[alloc.AttrType] == "" {
		return nil
	}
	life, err := g.lifeOf(ctx, s, node)
	if err != nil || life.gone() {
		return err
	}
	if asked {
		return refuse(r.Addr, fmt.Sprintf("it is %s's own, which is alive", node))
	}
	return refuse(r.Addr, fmt.Sprintf("%s, which holds it, %s, and its agent cannot be asked from here", node, life))
}

func refuse(addr netip.Addr, why string) error {
	return fault.Hint(fault.New(fault.Conflict, "release %s: it may be in use: %s", addr, why),
		"Run the command on that node, as root; --force releases it all the same.")
}
