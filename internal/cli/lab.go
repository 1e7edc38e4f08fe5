// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/spf13/cobra"
)

// labFlags are the flags of every lab command.
type labFlags struct {
	name   string
	binDir string
}

const labLong = `A lab is a cluster of real agents in network namespaces of this machine: nodes
that run ocicatd, pods attached by the CNI plugin, an etcd as datastore. By
default it is the article's cluster.

Everything a lab has is named after it: "ip netns" lists its namespaces as
LAB.NODE and LAB.NAMESPACE.POD.`

func newLabCommand(g *globals) *cobra.Command {
	f := &labFlags{}
	c := &cobra.Command{
		Use:   "lab",
		Short: "Run a cluster on this machine",
		Long:  labLong,
	}
	c.PersistentFlags().StringVar(&f.name, "name", "", "the lab's `NAME` (default "+lab.DefaultName+")")
	c.PersistentFlags().StringVar(&f.binDir, "bin-dir", "", "take ocicatd, ocicat-cni and ocicat-etcd from `DIR` (default beside this program, then $PATH)")
	pod := &cobra.Command{Use: "pod", Short: "Attach and detach pods"}
	pod.AddCommand(g.labPodAdd(f), g.labPodDel(f))
	c.AddCommand(g.labUp(f), g.labStatus(f), g.labList(), g.labExec(f), g.labNode(f), pod, g.labRestart(f), g.labKill(f), g.labDown(f), g.labDemo(f))
	return c
}

// open returns the lab the flags name.
func (f *labFlags) open(g *globals) (*lab.Lab, error) {
	l, err := lab.New(lab.Config{Name: cmp.Or(f.name, g.lab), Root: g.LabDir, BinDir: f.binDir, Progress: g.progress()})
	if err != nil {
		return nil, usageError{err}
	}
	return l, nil
}

// existing returns the lab the flags name; where they name none and there is
// only one lab, it is meant.
func (f *labFlags) existing(g *globals) (*lab.Lab, error) {
	if names := g.labNames(); f.name == "" && g.lab == "" && len(names) == 1 {
		return (&labFlags{name: names[0], binDir: f.binDir}).open(g)
	}
	return f.open(g)
}

func (g *globals) labUp(f *labFlags) *cobra.Command {
	var nodes int
	var article, noPods bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Make the lab, or start again what of it died",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			topology, err := lab.Article(nodes)
			if err != nil {
				return usageError{err}
			}
			topology.PermGateway = !article
			var pods []lab.PodSpec
			if !noPods {
				pods = lab.ArticlePods(nodes)
			}
			l, err := f.open(g)
			if err != nil {
				return err
			}
			return l.Up(c.Context(), topology, pods)
		},
	}
	c.Flags().IntVar(&nodes, "nodes", 2, "how many nodes; from the third on they continue as k8s-node-2, …")
	c.Flags().BoolVar(&article, "article", false, "no permanent neighbour for 169.254.1.1 in pods, so that they ask by ARP as in the article")
	c.Flags().BoolVar(&noPods, "no-pods", false, "do not attach the article's pods")
	return c
}

func (g *globals) labDown(f *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove all there is of the lab, also after a crash",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := f.open(g)
			if err != nil {
				return err
			}
			r, err := l.Down(c.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(g.stdout, "lab %s removed: %d processes, %d network namespaces, its files\n", l.Name(), r.Processes, r.Namespaces)
			return err
		},
	}
}

func (g *globals) labList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the labs of this machine",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			names, err := lab.Names(g.LabDir)
			if err != nil {
				return err
			}
			t := newTable("NAME")
			for _, name := range names {
				t.add(name)
			}
			return g.show(names, names, func(bool) *table { return t })
		},
	}
}

func (g *globals) labStatus(f *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what of the lab stands; exit code 10 if something does not",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := f.existing(g)
			if err != nil {
				return err
			}
			status, err := l.Status(c.Context())
			if err != nil {
				return err
			}
			if err := g.showLab(status); err != nil {
				return err
			}
			if !status.Healthy() {
				g.warn("not all of the lab stands: complete it with \"sudo ocicat lab up\"")
				return errProblems
			}
			return nil
		},
	}
}

func (g *globals) showLab(status lab.Status) error {
	if g.output == "json" || g.output == "yaml" {
		return g.show(status, nil, nil)
	}
	age := g.Now().Sub(status.Created).Truncate(1e9)
	if _, err := fmt.Fprintf(g.stdout, "LAB %s  up %s  datastore %s\n", status.Name, age, status.Datastore.State); err != nil {
		return err
	}
	nodes := newTable("NODE", "ADDRESS", "NETNS", "AGENT", "PID")
	for _, n := range status.Nodes {
		nodes.add(n.Name, n.Addr.Addr().String(), n.Netns, n.Agent.State, fmt.Sprint(n.Agent.PID))
	}
	if err := nodes.write(g.stdout); err != nil || len(status.Pods) == 0 {
		return err
	}
	pods := newTable("POD", "ADDRESS", "NODE", "INTERFACE", "STATE")
	for _, p := range status.Pods {
		address := ""
		if p.Address.IsValid() {
			address = p.Address.Addr().String()
		}
		pods.add(p.String(), address, p.Node, p.HostIf, p.State)
	}
	return pods.write(g.stdout)
}

func (g *globals) labExec(f *labFlags) *cobra.Command {
	return g.labRun(f, "exec POD -- COMMAND [ARGUMENT ...]", "Run a command in a pod's network namespace", (*lab.Lab).ExecPod)
}

func (g *globals) labNode(f *labFlags) *cobra.Command {
	return g.labRun(f, "node NODE -- COMMAND [ARGUMENT ...]", "Run a command on a node", (*lab.Lab).ExecNode)
}

// labRun is a command that runs another one inside the lab and passes its
// exit code through. An interrupt of the terminal goes to that one alone.
func (g *globals) labRun(f *labFlags, use, short string, run func(*lab.Lab, context.Context, string, []string, lab.Streams) (int, error)) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.existing(g)
			if err != nil {
				return err
			}
			argv := args[1:]
			if argv[0] == "--" { // flags end at the first word, so it is one of the words
				argv = argv[1:]
			}
			ctx, stop := signal.NotifyContext(context.WithoutCancel(c.Context()), syscall.SIGTERM)
			defer stop()
			code, err := run(l, ctx, args[0], argv, lab.Streams{In: g.stdin, Out: g.stdout, Err: g.stderr})
			if err == nil && code != 0 {
				err = exitWith(code)
			}
			return err
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}

func (g *globals) labPodAdd(f *labFlags) *cobra.Command {
	var ip, mac string
	c := &cobra.Command{
		Use:   "add [NAMESPACE/]NAME",
		Short: "Attach a new pod, on the node with the fewest unless --node says which",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			spec, err := podSpec(args[0], ip, mac)
			if err != nil {
				return usageError{err}
			}
			l, err := f.existing(g)
			if err != nil {
				return err
			}
			if spec.Node = g.node; spec.Node == "" {
				state, err := l.State()
				if err != nil {
					return err
				}
				spec.Node = state.IdlestNode()
			}
			pod, err := l.AddPod(c.Context(), spec)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(g.stdout, "%s  %s  %s  %s\n", pod, pod.Address.Addr(), pod.Node, pod.HostIf)
			return err
		},
	}
	c.Flags().StringVar(&ip, "ip", "", "the pod's `ADDRESS` (default the next free one)")
	c.Flags().StringVar(&mac, "mac", "", "the `MAC` of its eth0 (default any)")
	return c
}

// podSpec reads what the command line says of a pod; the namespace is
// "default" unless named.
func podSpec(name, ip, mac string) (lab.PodSpec, error) {
	p := lab.PodSpec{Namespace: "default", Name: name}
	if namespace, rest, found := strings.Cut(name, "/"); found {
		p.Namespace, p.Name = namespace, rest
	}
	var err error
	if p.MAC, err = host.ParseMAC(mac); err != nil {
		return p, fault.New(fault.Invalid, "--mac: %w", err)
	}
	if ip != "" {
		if p.IP, err = netip.ParseAddr(ip); err != nil {
			return p, fault.New(fault.Invalid, "--ip %q: not an IP address", ip)
		}
	}
	return p, p.Validate()
}

func (g *globals) labPodDel(f *labFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "del [NAMESPACE/]NAME",
		Aliases: []string{"delete"},
		Short:   "Detach a pod and remove it",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.existing(g)
			if err != nil {
				return err
			}
			pod, err := l.DeletePod(c.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(g.stdout, "%s deleted\n", pod)
			return err
		},
	}
}

func (g *globals) labRestart(f *labFlags) *cobra.Command {
	return g.labAgent(f, "restart NODE", "End a node's agent gently and start it again", "restarted", (*lab.Lab).RestartAgent)
}

func (g *globals) labKill(f *labFlags) *cobra.Command {
	return g.labAgent(f, "kill NODE", "Kill a node's agent as a crash would; \"lab up\" starts it again", "killed", (*lab.Lab).KillAgent)
}

func (g *globals) labAgent(f *labFlags, use, short, done string, change func(*lab.Lab, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return f.nodeNames(g), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.existing(g)
			if err != nil {
				return err
			}
			if err := change(l, c.Context(), args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(g.stdout, "agent of %s %s\n", args[0], done)
			return err
		},
	}
}

func (f *labFlags) nodeNames(g *globals) []string {
	l, err := f.existing(g)
	if err != nil {
		return nil
	}
	state, err := l.State()
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range state.Nodes {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names
}
