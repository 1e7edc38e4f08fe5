// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/ocicat-net/ocicat/api/v1"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
)

func newNodeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "Take nodes out of the cluster"}
	c.AddCommand(newNodeForgetCommand(g))
	return c
}

func newNodeForgetCommand(g *globals) *cobra.Command {
	var yes, force bool
	c := &cobra.Command{
		Use:   "forget NODE",
		Short: "Free all that a node holds, now",
		Long: `Delete a node whose machine is gone for good, and free at once what it holds:
its Node, its blocks, the addresses of its pods and tunnels, its reserve, its
heartbeat and its status. Without this command the agents do the same once the
Node is deleted and its heartbeat has stood still for two hours.

A node that may still give addresses to pods is refused: one that reported
within its lease time, an hour by default. --force forgets it all the same. That is safe if its machine is
off; if it runs, cut off from the datastore, its pods' addresses may be given
to others too, until it is back and reports OC2006.`,
		Example: `  ocicat node forget k8s-node-3
  ocicat node forget k8s-node-3 --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return g.forget(c.Context(), args[0], yes, force)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&force, "force", false, "also forget a node that may be alive")
	return c
}

// life is what the datastore tells of a node's agent.
type life struct {
	node    bool          // its Node exists
	beat    store.Entry   // its heartbeat
	beats   bool          // which exists
	reports bool          // it published a status
	age     time.Duration // of that
	lease   time.Duration // how long it may give addresses after a heartbeat
}

// gone reports whether nobody can give addresses of the node: its lease, which
// begins with a heartbeat, is over.
func (l life) gone() bool { return !l.beats && !l.reports || l.reports && l.age > l.lease }

// String says how the node is, after its name.
func (l life) String() string {
	switch {
	case !l.reports && !l.beats:
		return "has no agent"
	case !l.reports:
		return "has a heartbeat and no status"
	case l.age <= v1.StaleAfter:
		return fmt.Sprintf("is alive: it reported %s ago", l.age.Round(time.Second))
	}
	return fmt.Sprintf("reported %s ago", l.age.Round(time.Second))
}

// lifeOf reads what is known of a node.
func (g *globals) lifeOf(ctx context.Context, s store.Store, node string) (life, error) {
	l := life{lease: ipam.LeaseTime}
	read := func(kind store.Kind) (store.Entry, bool, error) {
		e, err := s.Get(ctx, store.Key{Kind: kind, Name: node})
		if fault.Is(err, fault.NotFound) {
			return e, false, nil
		}
		return e, err == nil, err
	}
	var err error
	if _, l.node, err = read(store.Node); err != nil {
		return l, err
	}
	if l.beat, l.beats, err = read(store.Heartbeat); err != nil {
		return l, err
	}
	if beat, err := ipam.ParseHeartbeat(l.beat.Value); err == nil && beat.Lease > 0 {
		l.lease = beat.Lease
	}
	status, reports, err := read(store.NodeStatus)
	if err != nil || !reports {
		return l, err
	}
	object, err := resource.Decode(status)
	if err != nil {
		g.warn("%v", err)
		return l, nil
	}
	l.reports, l.age = true, g.Now().Sub(object.(*v1.NodeStatus).Status.Heartbeat)
	return l, nil
}

func (g *globals) forget(ctx context.Context, node string, yes, force bool) error {
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := g.lifeOf(ctx, s, node)
	if err != nil {
		return err
	}
	use, err := g.ipamClient(s).Use(ctx, node)
	switch {
	case err != nil:
		return err
	case !l.node && !l.beats && !l.reports && len(use.Blocks)+len(use.Addresses) == 0:
		return fault.Hint(fault.New(fault.NotFound, "forget node %s: nothing of it is stored", node), "ocicat get node lists the nodes.")
	case !l.gone() && !force:
		return fault.Hint(fault.New(fault.Conflict, "forget node %s: it %s, and may be giving addresses to pods", node, l),
			"Stop its machine and wait until it was silent for %s. If the machine is off for good, --force forgets it now; if it still runs, --force risks that addresses of its pods are given to others too.", l.lease)
	}
	if !yes && !g.confirmed("Forget node %s, which %s: %d blocks and %d addresses are freed?", node, l, len(use.Blocks), len(use.Addresses)) {
		return fault.Hint(fault.New(fault.Invalid, "forget node %s: not confirmed, nothing done", node), "Answer yes, or give --yes.")
	}
	if force { // of one that lives, the heartbeat has moved on since
		if l, err = g.lifeOf(ctx, s, node); err != nil {
			return err
		}
	}
	return g.forgetNow(ctx, s, node, l)
}

// forgetNow deletes the Node first, so that no other node peers with it, and
// the status last, so that a forget that was cut off can be seen.
func (g *globals) forgetNow(ctx context.Context, s store.Store, node string, l life) error {
	if err := missingIsFine(s.Delete(ctx, store.Key{Kind: store.Node, Name: node}, store.AnyRevision)); err != nil {
		return fmt.Errorf("delete Node %s: %w", node, err)
	}
	done, err := g.ipamClient(s).Forget(ctx, node, l.beat.Revision, "ocicat node forget", ipam.TimesFor(l.lease))
	if err != nil {
		return fault.Hint(fault.New(fault.KindOf(err), "forget node %s: %w", node, err), "Give the command again: what is done stays done.")
	}
	if err := missingIsFine(s.Delete(ctx, store.Key{Kind: store.NodeStatus, Name: node}, store.AnyRevision)); err != nil {
		return fmt.Errorf("delete NodeStatus %s: %w", node, err)
	}
	g.line("node/%s %s: %d blocks and %d addresses freed", node, g.paint(good, "forgotten"), len(done.Blocks), len(done.Addresses))
	return nil
}

func missingIsFine(err error) error {
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// confirmed asks on standard error and reads yes or no.
func (g *globals) confirmed(format string, args ...any) bool {
	fmt.Fprintf(g.stderr, format+" [yes/no] ", args...)
	answer, _ := bufio.NewReader(g.stdin).ReadString('\n') // no answer is no
	return strings.TrimSpace(strings.ToLower(answer)) == "yes"
}
