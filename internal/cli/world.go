// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/probe"
	"github.com/ocicat-net/ocicat/internal/trace"
)

// world is what trace can ask and watch from here: the kernels of nodes and
// pods.
type world struct {
	site  probe.Site
	nodes []trace.Node
	pods  []trace.Endpoint
	whose string   // of whose pods it knows, in hints
	away  []string // nodes whose pods it does not know
	close func()
}

// openWorld asks the agents of a Kubernetes cluster; in a lab or on a node it
// opens the namespaces, for which it must be root.
func (g *globals) openWorld(ctx context.Context) (*world, error) {
	where, err := g.withinReach()
	if err == nil && where.kube != nil {
		w, err := g.kubeWorld(ctx, where.kube)
		if err == nil || !g.isOnNode(err) {
			return w, err
		}
		g.warn("%v: tracing between this machine's pods alone", err)
		where = place{}
	}
	if os.Geteuid() != 0 {
		return nil, fault.Hint(fault.New(fault.Invalid, "trace: needs root"), "It enters the pods' network namespaces: run the command with sudo.")
	}
	here := &places{kernels: probe.NewKernels(ctx)}
	w := &world{site: here.kernels, close: here.close}
	switch {
	case err != nil:
	case where.lab != "":
		err = w.addLab(here, where.lab, g.LabDir)
	default:
		err = w.addThisNode(ctx, here, admin.Dial(g.AdminSocket))
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// netnsDir is where named network namespaces are.
const netnsDir = "/run/netns"

// places are namespaces of this machine.
type places struct {
	kernels *probe.Kernels
	open    []*os.File
}

func (p *places) add(at trace.Place, path string) error {
	ns, err := netns.Open(path)
	if fault.Is(err, fault.NotFound) {
		return nil // gone: trace says what that means for the path
	}
	if err != nil {
		return err
	}
	p.open = append(p.open, ns)
	return p.kernels.Add(at, ns)
}

func (p *places) close() {
	_ = p.kernels.Close()
	for _, ns := range p.open {
		_ = ns.Close()
	}
}

func (w *world) addLab(here *places, name, root string) error {
	l, err := lab.New(lab.Config{Name: name, Root: root})
	if err != nil {
		return err
	}
	state, err := l.State()
	if err != nil {
		return err
	}
	w.whose = "Lab " + name
	for _, n := range state.Topology.Nodes {
		w.nodes = append(w.nodes, trace.Node{Name: n.Name, Addrs: []netip.Addr{n.Addr.Addr()}})
		if err := here.add(trace.Place{Node: n.Name}, filepath.Join(netnsDir, name+"."+n.Name)); err != nil {
			return err
		}
	}
	for _, p := range state.Pods {
		if !p.Attached {
			continue
		}
		end := trace.Endpoint{Place: trace.Place{Node: p.Node, Pod: p.String()}, Addr: p.Address.Addr(), IfName: "eth0", HostIf: p.HostIf}
		w.pods = append(w.pods, end)
		if err := here.add(end.Place, filepath.Join(netnsDir, p.Netns)); err != nil {
			return err
		}
	}
	return nil
}

// addThisNode knows this machine only: its agent's pods and its addresses.
func (w *world) addThisNode(ctx context.Context, here *places, agent *admin.Client) error {
	report, err := agent.Report(ctx)
	if err != nil {
		return err
	}
	node := report.Metadata.Name
	w.whose = "This node, " + node + ","
	if address, err := netip.ParsePrefix(report.Status.Address); err == nil {
		w.nodes = append(w.nodes, trace.Node{Name: node, Addrs: []netip.Addr{address.Addr()}})
	}
	if err := here.add(trace.Place{Node: node}, "/proc/self/ns/net"); err != nil {
		return err
	}
	endpoints, err := agent.Endpoints(ctx)
	if err != nil {
		return err
	}
	for _, ep := range sortedByAddr(endpoints) {
		end := endOf(node, ep)
		w.pods = append(w.pods, end)
		if ep.NetnsPath == "" {
			continue
		}
		if err := here.add(end.Place, ep.NetnsPath); err != nil {
			return err
		}
	}
	return nil
}

// sortedByAddr orders pods by address, in place.
func sortedByAddr(endpoints []admin.Endpoint) []admin.Endpoint {
	slices.SortFunc(endpoints, func(a, b admin.Endpoint) int { return a.Addr.Compare(b.Addr) })
	return endpoints
}

// endOf is a node's pod as trace knows it.
func endOf(node string, ep admin.Endpoint) trace.Endpoint {
	name := ep.Namespace + "/" + ep.Pod
	if ep.Pod == "" {
		name = ep.ID.ContainerID
	}
	return trace.Endpoint{Place: trace.Place{Node: node, Pod: name}, Addr: ep.Addr, IfName: ep.ID.IfName, HostIf: ep.HostIf}
}

// find returns the pod people mean: by namespace and name, by address, by a
// name that is unique, or by a unique beginning or end of one.
func (w *world) find(word string) (trace.Endpoint, error) {
	matches := w.matching(func(p trace.Endpoint, short string) bool {
		addr, byAddr := isAddr(word)
		return p.Pod == word || short == word || (byAddr && p.Addr == addr)
	})
	if len(matches) == 0 && word != "" {
		matches = w.matching(func(_ trace.Endpoint, short string) bool {
			return strings.HasPrefix(short, word) || strings.HasSuffix(short, word)
		})
	}
	switch {
	case len(matches) == 1:
		return matches[0], nil
	case len(matches) > 1:
		err := fault.New(fault.Invalid, "pod %q: %d pods fit", word, len(matches))
		return trace.Endpoint{}, usageError{fault.Hint(err, "Which one: %s?", podNames(matches))}
	}
	if len(w.away) > 0 {
		return trace.Endpoint{}, fault.New(fault.Unavailable, "pod %q: not found, and the pods of %s are not known", word, someOf(w.away))
	}
	err := fault.New(fault.NotFound, "pod %q: not found", word)
	if len(w.pods) == 0 {
		return trace.Endpoint{}, fault.Hint(err, "%s has no pods.", w.whose)
	}
	return trace.Endpoint{}, fault.Hint(err, "%s has %s.", w.whose, podNames(w.pods))
}

// matching are the pods that match; short is a pod's name without namespace.
func (w *world) matching(match func(p trace.Endpoint, short string) bool) []trace.Endpoint {
	var list []trace.Endpoint
	for _, p := range w.pods {
		_, short, _ := strings.Cut(p.Pod, "/")
		if match(p, short) {
			list = append(list, p)
		}
	}
	return list
}

// podNames joins the pods' names, of very many only the first.
func podNames(pods []trace.Endpoint) string {
	const most = 20
	var names []string
	for i, p := range pods {
		if i == most {
			return fmt.Sprintf("%s and %d more", joined(names), len(pods)-most)
		}
		names = append(names, p.Pod)
	}
	return joined(names)
}
