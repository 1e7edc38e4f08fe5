// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/spf13/cobra"
)

func newGetCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "get KIND [NAME…]",
		Short: "Print resources",
		Long:  "get prints the resources of one or more kinds, or those named.\n\nKinds are " + strings.Join(resource.Plurals(), ", ") + ".",
		Example: `  ocicat get ippools
  ocicat get node k8s-node-1 -o yaml
  ocicat get bgppeers,bgpconfig -o wide`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: g.completeResource,
		RunE: func(c *cobra.Command, args []string) error {
			wants, err := parseReferences(args)
			if err != nil {
				return err
			}
			return g.get(c.Context(), wants)
		},
	}
}

// reference is a kind and the names wanted of it; no names means all.
type reference struct {
	kind  resource.Kind
	names []string
}

// parseReferences reads KIND[,KIND] [NAME…] or KIND/NAME….
func parseReferences(args []string) ([]reference, error) {
	var wants []reference
	if strings.Contains(args[0], "/") {
		for _, arg := range args {
			word, name, _ := strings.Cut(arg, "/")
			kind, err := resource.Find(word)
			if err != nil {
				return nil, usageError{err}
			}
			if name == "" {
				return nil, usageError{fault.New(fault.Invalid, "%q: want KIND/NAME", arg)}
			}
			wants = append(wants, reference{kind, []string{name}})
		}
		return wants, nil
	}
	for _, word := range split(args[0]) {
		kind, err := resource.Find(word)
		if err != nil {
			return nil, usageError{err}
		}
		wants = append(wants, reference{kind, args[1:]})
	}
	if len(wants) == 0 {
		return nil, usageError{fault.New(fault.Invalid, "%q: want a kind of resource", args[0])}
	}
	return wants, nil
}

// listing is what was found of one reference.
type listing struct {
	kind    resource.Kind
	objects []resource.Object
}

func (g *globals) get(ctx context.Context, wants []reference) error {
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	var lists []listing
	var errs []error
	for _, want := range wants {
		objects, err := g.fetch(ctx, s, want)
		errs = append(errs, err)
		lists = append(lists, listing{want.kind, objects})
	}
	total := 0
	for _, l := range lists {
		total += len(l.objects)
	}
	missing := errors.Join(errs...)
	if total == 0 && missing != nil {
		return missing
	}
	single := total == 1 && len(wants) == 1 && len(wants[0].names) == 1
	return errors.Join(g.printLists(lists, single), missing)
}

// fetch reads what a reference names. Objects that cannot be read are left out
// with a warning, names that do not exist are an error beside the others.
func (g *globals) fetch(ctx context.Context, s store.Store, want reference) ([]resource.Object, error) {
	if g.node != "" {
		if want.kind.Stored != store.Node && want.kind.Stored != store.NodeStatus {
			return nil, usageError{fault.New(fault.Invalid, "--node has no meaning for %s: want nodes or nodestatuses", want.kind.Plural)}
		}
		want.names = append(slices.Clone(want.names), g.node)
	}
	all, err := g.list(ctx, s, want.kind)
	if err != nil || len(want.names) == 0 {
		return all, err
	}
	var picked []resource.Object
	var errs []error
	for _, name := range want.names {
		i := slices.IndexFunc(all, func(o resource.Object) bool { return o.ObjectMeta().Name == name })
		if i < 0 {
			errs = append(errs, notFound(want.kind, name, all))
			continue
		}
		picked = append(picked, all[i])
	}
	return picked, errors.Join(errs...)
}

func notFound(kind resource.Kind, name string, all []resource.Object) error {
	err := fault.New(fault.NotFound, "%s %q does not exist", kind.Name, name)
	var names []string
	for _, o := range all {
		names = append(names, o.ObjectMeta().Name)
	}
	if near := meta.DidYouMean(name, names); near != "" {
		return fault.Hint(err, "%s", near)
	}
	return fault.Hint(err, "\"ocicat get %s\" lists them.", kind.Plural)
}

// list reads all objects of a kind, by name.
func (g *globals) list(ctx context.Context, s store.Store, kind resource.Kind) ([]resource.Object, error) {
	entries, _, err := s.List(ctx, kind.Stored, "")
	if err != nil {
		return nil, err
	}
	var objects []resource.Object
	for _, e := range entries {
		o, err := resource.Decode(e)
		if err != nil {
			p := resource.Quarantined(e.Key, err)
			g.warn("%s %s", p.Code, p.Text)
			continue
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// manifest is several objects as -o yaml and -o json print them.
type manifest struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Items      []resource.Object `json:"items"`
}

func (g *globals) printLists(lists []listing, single bool) error {
	var objects []resource.Object
	var names []string
	for _, l := range lists {
		objects = append(objects, l.objects...)
	}
	for _, o := range objects {
		names = append(names, resource.Reference(o))
	}
	switch {
	case g.output == "name":
		return g.show(nil, append([]string{}, names...), nil)
	case g.output == "json" || g.output == "yaml":
		if single {
			return g.show(objects[0], nil, nil)
		}
		m := manifest{"v1", "List", append([]resource.Object{}, objects...)}
		if len(lists) == 1 {
			m.APIVersion, m.Kind = lists[0].kind.APIVersion, lists[0].kind.Name+"List"
		}
		return g.show(m, nil, nil)
	}
	first := true
	for _, l := range lists {
		if len(l.objects) == 0 {
			g.note("No %s.", l.kind.Plural)
			continue
		}
		if !first {
			g.line("")
		}
		first = false
		if err := resourceTable(l, g.output == "wide").write(g.stdout); err != nil {
			return err
		}
	}
	return nil
}

func resourceTable(l listing, wide bool) *table {
	header := []string{"NAME"}
	var columns []resource.Column
	for _, c := range l.kind.Columns {
		if !c.Wide || wide {
			header, columns = append(header, c.Title), append(columns, c)
		}
	}
	t := newTable(header...)
	for _, o := range l.objects {
		row := []string{o.ObjectMeta().Name}
		for _, c := range columns {
			row = append(row, c.Value(o))
		}
		t.add(row...)
	}
	return t
}

// completionTimeout bounds how long a press of the tab key may take.
const completionTimeout = 2 * time.Second

// completeResource offers kinds for the first argument and names for others.
func (g *globals) completeResource(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return resource.Plurals(), cobra.ShellCompDirectiveNoFileComp
	}
	kind, err := resource.Find(args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(contextOf(c)), completionTimeout)
	defer cancel()
	s, err := g.openStore(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	entries, _, err := s.List(ctx, kind.Stored, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Key.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func contextOf(c *cobra.Command) context.Context {
	if ctx := c.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}
