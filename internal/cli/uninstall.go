// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/purge"
)

// uninstallPoll is how often --wait looks whether pods and agent are gone.
const uninstallPoll = time.Second

// uninstallFlags are what the uninstall command is told.
type uninstallFlags struct {
	node       purge.Node
	options    purge.Options
	wait, stay bool
}

func newUninstallCommand(g *globals) *cobra.Command {
	f := uninstallFlags{node: purge.Node{Install: install.Config{Conflist: install.Conflist{Network: install.DefaultNetwork}}}}
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove Ocicat from this node",
		Long: `Remove from this node, as root, the CNI configuration and then the plugins an
agent installed. The node gets no new pods afterwards. Routes, rules and sysctls
stay, and with them the network of the pods that run; an agent that is installed
again takes these over. Other nodes whose agents run forget the way to them after
two minutes. Files of others stay.

containerd ends no pod without a configuration: install the next network before
these pods end.

With --purge all else goes too, once the last pod is gone: routes, packet
filter, links that were left, the directories of the agent. What is not ours
stays, and is named where it looks like ours. With --wait nothing is removed
before that, and the runtime ends pods as ever.

Stop the agent first: it would install all of it again. On Kubernetes
deploy/uninstall.yaml does this on every node.`,
		Example: `  ocicat uninstall
  ocicat uninstall --purge --dry-run
  ocicat uninstall --purge --wait`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.node.Log = slog.New(slog.NewTextHandler(g.stderr, nil))
			return f.run(c.Context(), g)
		},
	}
	flags := c.Flags()
	flags.BoolVar(&f.options.Purge, "purge", false, "remove everything, once no pod uses it")
	flags.BoolVar(&f.options.Force, "force", false, "purge although pods use it, which cuts them off, or another BGP speaker runs")
	flags.BoolVar(&f.options.DryRun, "dry-run", false, "change nothing, say what would be")
	flags.BoolVar(&f.wait, "wait", false, "wait until agent and pods are gone instead of refusing")
	flags.BoolVar(&f.stay, "stay", false, "do not end when all is done, for a container that must not end")
	flags.StringVar(&f.node.Install.BinDir, "cni-bin-dir", "/opt/cni/bin", "`DIRECTORY` of the runtime's CNI plugins")
	flags.StringVar(&f.node.Install.NetDir, "cni-net-dir", "/etc/cni/net.d", "`DIRECTORY` of the runtime's CNI configurations")
	flags.StringVar(&f.node.Install.Source, "cni-source", "/opt/ocicat/bin", "`DIRECTORY` the plugins were installed from; shared plugins not found there stay")
	flags.StringVar(&f.node.Install.Conflist.File, "cni-conf-name", install.DefaultFile, "`NAME` of our CNI configuration")
	flags.StringVar(&f.node.RunDir, "run-dir", "/run/ocicat", "`DIRECTORY` of the agent's sockets and journal")
	flags.StringVar(&f.node.StateDir, "state-dir", "/var/lib/ocicat", "`DIRECTORY` of the agent's lasting state")
	return c
}

func (f uninstallFlags) run(ctx context.Context, g *globals) error {
	if err := f.check(g); err != nil {
		return err
	}
	if f.options.Force && !f.options.DryRun {
		f.warn(ctx, g)
	}
	r, err := f.node.Uninstall(ctx, f.options)
	for waits := ""; f.wait && fault.Is(err, fault.Conflict); r, err = f.node.Uninstall(ctx, f.options) {
		if text := err.Error(); text != waits {
			fmt.Fprintf(g.stderr, "waiting: %s\n", text)
			waits = text
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "%w: %w", err, ctx.Err())
		case <-time.After(uninstallPoll):
		}
	}
	if err != nil {
		return err
	}
	if err := f.print(g, r); err != nil {
		return err
	}
	if err := r.Err(); err != nil {
		return err
	}
	if f.stay {
		<-ctx.Done()
	}
	return nil
}

// warn names the pods that are about to be cut off.
func (f uninstallFlags) warn(ctx context.Context, g *globals) {
	look := f.options
	look.DryRun = true
	if r, err := f.node.Uninstall(ctx, look); err == nil && len(r.Pods) > 0 {
		fmt.Fprintf(g.stderr, "ocicat: %s cutting off %s\n", g.errPaint(bad, "warning:"), listed(r.Pods))
	}
}

// check refuses what this command cannot do.
func (f uninstallFlags) check(g *globals) error {
	const where = "On a node: ocicat uninstall, as root. On every node of a cluster: kubectl apply -f deploy/uninstall.yaml"
	switch {
	case g.Program == KubectlPlugin:
		return fault.Hint(fault.New(fault.Invalid, "uninstall: it removes files and routes of the machine it runs on, which is no node"), where)
	case g.node != "" || g.lab != "" || g.etcd != "" || g.kubeconfig != "" || g.kubeContext != "":
		return usageError{fault.Hint(fault.New(fault.Invalid, "uninstall: it works on this machine alone: want no flag that names another"), where)}
	case (f.options.Force || f.wait || f.stay) && !f.options.Purge:
		return usageError{fault.Hint(fault.New(fault.Invalid, "uninstall: --force, --wait and --stay are for --purge"), "Add --purge, or leave them out.")}
	case os.Geteuid() != 0:
		return fault.Hint(fault.New(fault.Invalid, "uninstall: it changes files and routes of this node: want root"), "sudo ocicat uninstall")
	}
	return nil
}

// print says what was done, what is left and why.
func (f uninstallFlags) print(g *globals, r purge.Report) error {
	if g.output == "json" || g.output == "yaml" {
		return g.show(r, nil, nil)
	}
	var b strings.Builder
	verb := "removed"
	if r.DryRun {
		verb = "would remove"
	}
	for _, what := range r.Removed {
		fmt.Fprintf(&b, "%s %s\n", verb, what)
	}
	for _, item := range r.Kept {
		fmt.Fprintf(&b, "kept %s: %s\n", item.What, item.Why)
	}
	b.WriteString(summary(r))
	_, err := fmt.Fprint(g.stdout, b.String())
	return err
}

// summary is the state of the node in one or two lines.
func summary(r purge.Report) string {
	switch {
	case len(r.Failed) > 0:
		return "not finished: the command can be given again\n"
	case r.DryRun:
		return "nothing was changed\n"
	case r.Purge:
		return "purged: nothing of Ocicat is left on this node\n"
	case len(r.Pods) > 0:
		return fmt.Sprintf("uninstalled: the node gets no new pods; %s its network: %s\n", usedBy(r.Pods), listed(r.Pods)) +
			"when the last is gone, \"ocicat uninstall --purge\" removes what is left\n"
	case len(r.Left) > 0:
		return fmt.Sprintf("uninstalled: the node gets no new pods; no pod uses its network, and \"ocicat uninstall --purge\" removes the %d things left\n", len(r.Left))
	}
	return "uninstalled: the node gets no new pods\n"
}

func usedBy(pods []purge.Pod) string {
	if len(pods) == 1 {
		return "1 pod still uses"
	}
	return fmt.Sprintf("%d pods still use", len(pods))
}

func listed(pods []purge.Pod) string {
	names := make([]string, len(pods))
	for i, p := range pods {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}
