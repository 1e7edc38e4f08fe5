// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/connectivity"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
)

func newConnectivityCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "connectivity", Short: "Test the network from inside pods"}
	c.AddCommand(newConnectivityTestCommand(g), &cobra.Command{
		Use: "probe", Short: "Echo and try what one is asked to, in a pod of a test", Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return connectivity.Probe(c.Context()) },
	})
	return c
}

// connectivityOptions are the flags of a test.
type connectivityOptions struct {
	nodes   []string
	pairs   int
	seed    uint64
	outside []string
	image   string
	timeout time.Duration
	keep    bool
}

func newConnectivityTestCommand(g *globals) *cobra.Command {
	var o connectivityOptions
	c := &cobra.Command{
		Use:   "test",
		Short: "Test that pods on all nodes reach each other, services, names and the outside",
		Long: `Make a namespace with a pod on every node and a service, and try from each pod:
every other pod (TCP and UDP), packets as long as the MTU, the service by address
and by name, the API server, and another node's kubelet, which is outside of the
pod network. What fails between two pods is traced, if you may trace. Then all of
it is removed, also after Ctrl-C.

It needs the right to make and delete namespaces, pods and services, and to
forward ports; see docs/connectivity.md.

Exit code 10 means that something failed or could not be tested.`,
		Example: `  ocicat connectivity test
  ocicat connectivity test --nodes k8s-node-1,k8s-node-2 -o wide
  ocicat connectivity test --outside 192.0.2.10:443 -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.connectivityTest(c.Context(), o) },
	}
	f := c.Flags()
	f.StringSliceVar(&o.nodes, "nodes", nil, "test these `NODES` alone")
	f.IntVar(&o.pairs, "pairs", 200, "test at most `N` pairs of nodes, a random sample; 0 means all")
	f.Uint64Var(&o.seed, "seed", 0, "choose the sample of an earlier test")
	f.StringSliceVar(&o.outside, "outside", nil, "connect to these `HOST:PORT` too")
	f.StringVar(&o.image, "image", "", "run this `IMAGE` in the pods; default is the agents'")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "wait this long for the pods")
	f.BoolVar(&o.keep, "keep", false, "leave the namespace there")
	return c
}

// connectivityReport is what a test found out.
type connectivityReport struct {
	Namespace    string                 `json:"namespace"`
	Kept         bool                   `json:"kept,omitempty"`
	Nodes        []string               `json:"nodes"`
	NotTested    map[string]string      `json:"notTested,omitempty"` // node to reason
	PairsLeftOut int                    `json:"pairsLeftOut,omitempty"`
	Seed         uint64                 `json:"seed,omitempty"` // of the sample
	Checks       []connectivity.Outcome `json:"checks"`
}

// removal is how long what was made may take to go.
const removal = time.Minute

func (g *globals) connectivityTest(ctx context.Context, o connectivityOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	return wantsRole(g.connectivityTestBy(ctx, o), testerRole)
}

// testerRole has the rights of a test; docs/connectivity.md lists them.
const testerRole guest = "cluster-admin"

func (g *globals) connectivityTestBy(ctx context.Context, o connectivityOptions) error {
	client, err := g.cluster(ctx, "connectivity test")
	if err != nil {
		return err
	}
	defer client.Close()
	nodes, image, err := g.testable(ctx, client, o)
	if err != nil {
		return err
	}
	opening, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	steps := g.newSteps()
	site, err := connectivity.Open(opening, client, nodes, image, o.keep, func(ready, of int) {
		steps.show("pods", fmt.Sprintf("%d of %d answer", ready, of))
	})
	var report connectivityReport
	if err == nil {
		steps.done()
		report, err = g.connectivityRun(ctx, site, o, steps)
	}
	if o.keep && err == nil {
		report.Kept = true
		return g.printConnectivity(report)
	}
	if left := g.removeSite(ctx, site, steps); left != nil {
		g.warn("%v", left)
		if hint := fault.HintOf(left); hint != "" {
			g.warn("%s", hint)
		}
	}
	if ctx.Err() != nil {
		return exitWith(130) // as a shell says of a program that an interrupt ended
	}
	if err != nil {
		return err
	}
	return g.printConnectivity(report)
}

func (o connectivityOptions) check() error {
	for _, target := range o.outside {
		if _, port, err := net.SplitHostPort(target); err != nil || !isPort(port) {
			return usageError{fault.New(fault.Invalid, "--outside %q: want HOST:PORT, as 192.0.2.10:443", target)}
		}
	}
	if o.pairs < 0 {
		return usageError{fault.New(fault.Invalid, "--pairs %d: want 0 or more", o.pairs)}
	}
	if o.timeout <= 0 {
		return usageError{fault.New(fault.Invalid, "--timeout %s: want more than 0", o.timeout)}
	}
	return nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// cluster is a client of the Kubernetes cluster, which a verb needs.
func (g *globals) cluster(ctx context.Context, verb string) (*kubeapi.Client, error) {
	where, err := g.locate()
	if err != nil {
		return nil, err
	}
	if where.kube == nil {
		err := fault.New(fault.Unsupported, "%s: needs Kubernetes, and this cluster is at %s (%s)", verb, strings.Join(where.endpoints, ", "), where.source)
		return nil, fault.Hint(err, "--kubeconfig or --context names one. Without Kubernetes, \"%s trace POD POD\" proves a path.", g.Program)
	}
	g.opened = where
	return where.kube.connect(ctx)
}

// testable are the nodes to test, those on which no pod can run too, and the
// image of their pods. What tests left behind long ago is removed.
func (g *globals) testable(ctx context.Context, client *kubeapi.Client, o connectivityOptions) ([]connectivity.Node, string, error) {
	nodes, err := connectivity.Nodes(ctx, client)
	if err != nil {
		return nil, "", err
	}
	if g.node != "" {
		o.nodes = append(o.nodes, g.node)
	}
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	for _, name := range o.nodes {
		if !slices.Contains(names, name) {
			return nil, "", unknownNode(name, names)
		}
	}
	if len(o.nodes) > 0 {
		nodes = slices.DeleteFunc(nodes, func(n connectivity.Node) bool { return !slices.Contains(o.nodes, n.Name) })
	}
	image := o.image
	if image == "" {
		if image, err = agentImage(ctx, client); err != nil {
			return nil, "", err
		}
	}
	removed, err := connectivity.Sweep(ctx, client, g.Now())
	for _, name := range removed {
		g.warn("namespace %s was left by an earlier test, and is removed", name)
	}
	if err != nil {
		g.say("look for what earlier tests left: %v", err)
	}
	return nodes, image, nil
}

// agentImage is the image of the agents, which all nodes have already.
func agentImage(ctx context.Context, client *kubeapi.Client) (string, error) {
	pods, err := (&kubeAgents{client: client}).pods(ctx)
	if err != nil {
		return "", err
	}
	for _, node := range slices.Sorted(maps.Keys(pods)) {
		for _, container := range pods[node].Spec.Containers {
			if container.Image != "" {
				return container.Image, nil
			}
		}
	}
	return "", fault.Hint(fault.New(fault.NotFound, "find the agents' image: their pods name none"), "Name one that has the program /ocicat with --image.")
}

// connectivityRun tests, and traces what fails between pods.
func (g *globals) connectivityRun(ctx context.Context, site *connectivity.Site, o connectivityOptions, steps *steps) (connectivityReport, error) {
	report := connectivityReport{Namespace: site.Namespace, NotTested: site.Out}
	for _, end := range site.Ends {
		report.Nodes = append(report.Nodes, end.Node)
	}
	self, err := site.Self(ctx, site.Ends[0].Node)
	if err != nil {
		return report, err
	}
	seed := o.seed
	if seed == 0 {
		seed = 1 + rand.Uint64N(1<<32)
	}
	checks, leftOut := connectivity.Plan(connectivity.Goal{
		Ends: site.Ends, Pairs: o.pairs, Seed: seed, Service: site.Service, Name: site.Name, API: self.API, Outside: o.outside,
	})
	if leftOut > 0 {
		report.PairsLeftOut, report.Seed = leftOut, seed
	}
	made, failed := 0, 0
	report.Checks = connectivity.Run(ctx, site, checks, func(outcome connectivity.Outcome) {
		if made++; !outcome.OK {
			failed++
		}
		steps.show("checks", fmt.Sprintf("%d of %d, %d failed", made, len(checks), failed))
	})
	steps.done()
	if ctx.Err() == nil && failed > 0 {
		g.findCauses(ctx, site, report.Checks)
	}
	return report, ctx.Err()
}

// tracedFailures is how many failures are traced: one cause has many of them.
const tracedFailures = 3

// findCauses traces the first failures between pods and adds what is found.
func (g *globals) findCauses(ctx context.Context, site *connectivity.Site, outcomes []connectivity.Outcome) {
	pods := map[string]string{}
	for _, end := range site.Ends {
		pods[end.Node] = site.Namespace + "/" + end.Pod
	}
	var world *world
	traced := 0
	for i, o := range outcomes {
		if o.OK || o.Unknown || pods[o.To] == "" || o.Kind != connectivity.PodToPod || traced == tracedFailures {
			continue
		}
		traced++
		cause, err := func() (string, error) {
			if world == nil {
				var err error
				if world, err = g.openWorld(ctx); err != nil {
					return "", err
				}
			}
			from, err := world.find(pods[o.From])
			if err != nil {
				return "", err
			}
			to, err := world.find(pods[o.To])
			if err != nil {
				return "", err
			}
			result, _, err := world.trace(ctx, from, to, traceOptions{timeout: time.Second})
			if err != nil || len(result.Findings) == 0 {
				return "", err
			}
			return result.Findings[0].String(), nil
		}()
		if err != nil {
			g.say("trace %s to %s: %v", o.From, o.To, err)
		}
		outcomes[i].Cause = cause
	}
	if world != nil {
		world.close()
	}
}

// removeSite removes what was made for a test, also after an interrupt. Another
// interrupt leaves it.
func (g *globals) removeSite(ctx context.Context, site *connectivity.Site, steps *steps) error {
	if site.Namespace == "" {
		return nil
	}
	interrupted := ctx.Err() != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
	defer cancel()
	if interrupted {
		g.warn("interrupted: removing namespace %s; another Ctrl-C leaves it", site.Namespace)
		again := make(chan os.Signal, 1)
		signal.Notify(again, os.Interrupt)
		defer signal.Stop(again)
		go func() {
			select {
			case <-again:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	steps.show("namespace", site.Namespace+" is being removed")
	err := site.Close(ctx)
	if err == nil {
		steps.show("namespace", site.Namespace+" removed")
	}
	steps.done()
	return err
}

// printConnectivity prints a report. Its error is errProblems where not all is
// well.
func (g *globals) printConnectivity(r connectivityReport) error {
	bad := len(r.NotTested)
	for _, o := range r.Checks {
		if !o.OK {
			bad++
		}
	}
	err := g.show(r, nil, func(wide bool) *table {
		if wide {
			return g.checksTable(r.Checks)
		}
		return g.kindsTable(r.Checks)
	})
	if g.output != "json" && g.output != "yaml" {
		g.printFailures(r)
	}
	if err == nil && bad > 0 {
		return errProblems
	}
	return err
}

// kindsTable sums the checks up.
func (g *globals) kindsTable(checks []connectivity.Outcome) *table {
	t := newTable("CHECK", "OK", "MEDIAN", "MTU")
	for _, kind := range connectivity.Kinds {
		var times []int64
		of, mtu := 0, 0
		for _, o := range checks {
			if o.Kind != kind {
				continue
			}
			of++
			if o.OK {
				times = append(times, o.Micros)
				if o.MTU > 0 && (mtu == 0 || o.MTU < mtu) && kind == connectivity.FullPackets {
					mtu = o.MTU
				}
			}
		}
		if of == 0 {
			continue
		}
		slices.Sort(times)
		style, median, size := good, "", ""
		if len(times) < of {
			style = bad
		}
		if len(times) > 0 {
			median = micros(times[len(times)/2])
		}
		if mtu > 0 {
			size = strconv.Itoa(mtu)
		}
		t.add(string(kind), g.paint(style, fmt.Sprintf("%d of %d", len(times), of)), median, size)
	}
	return t
}

func (g *globals) checksTable(checks []connectivity.Outcome) *table {
	t := newTable("CHECK", "FROM", "TO", "RESULT", "TIME")
	for _, o := range checks {
		switch {
		case o.OK:
			t.add(string(o.Kind), o.From, o.To, g.paint(good, "ok"), micros(o.Micros))
		case o.Unknown:
			t.add(string(o.Kind), o.From, o.To, g.paint(warned, "unknown"))
		default:
			t.add(string(o.Kind), o.From, o.To, g.paint(bad, "failed"))
		}
	}
	return t
}

func micros(n int64) string { return fmt.Sprintf("%.2fms", float64(n)/1000) }

// printFailures says what failed and what was not tested.
func (g *globals) printFailures(r connectivityReport) {
	for _, o := range r.Checks {
		if o.OK {
			continue
		}
		g.line("%s %s, %s to %s: %s", g.paint(bad, "✗"), o.Kind, o.From, o.To, o.Error)
		if o.Cause != "" {
			g.line("  found: %s", o.Cause)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(r.NotTested)) {
		g.line("%s node %s was not tested: %s", g.paint(warned, "!"), node, cmp.Or(r.NotTested[node], "its pod did not start in time"))
	}
	if r.PairsLeftOut > 0 {
		g.line("%d pairs of nodes were left out: --pairs 0 tests all, --seed %d the same again", r.PairsLeftOut, r.Seed)
	}
	if r.Kept {
		g.line("namespace %s is kept; remove it: kubectl delete namespace %s", r.Namespace, r.Namespace)
	}
}
