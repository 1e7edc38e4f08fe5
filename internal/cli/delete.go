// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/spf13/cobra"
)

func newDeleteCommand(g *globals) *cobra.Command {
	var files []string
	var ignore, force bool
	c := &cobra.Command{
		Use:   "delete KIND NAME… | -f FILE",
		Short: "Delete resources",
		Long: `delete removes the named resources, or those that files hold. All names are
looked up first; if one is missing, nothing is deleted. A pool with addresses
in use is kept, for its pods would lose their routes.`,
		Example: `  ocicat delete bgppeer tor-a
  ocicat delete -f peers.yaml --ignore-not-found`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: g.completeResource,
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := g.deletions(args, files)
			if err != nil {
				return err
			}
			return g.delete(c.Context(), keys, ignore, force)
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "delete what `FILE`, a directory, or - holds; may be given again")
	c.Flags().BoolVar(&ignore, "ignore-not-found", false, "do not mind names that do not exist")
	c.Flags().BoolVar(&force, "force", false, "also delete pools with addresses in use")
	return c
}

// target is one object to delete.
type target struct {
	key       store.Key
	reference string
	kind      resource.Kind
}

// deletions lists what a command line asks to delete.
func (g *globals) deletions(args, files []string) ([]target, error) {
	var targets []target
	switch {
	case len(files) > 0 && len(args) > 0:
		return nil, usageError{fault.New(fault.Invalid, "delete: want names or -f, not both")}
	case len(files) > 0:
		documents, err := g.readDocuments(files)
		if err != nil {
			return nil, err
		}
		for _, d := range documents {
			targets = append(targets, target{resource.Key(d.Object), resource.Reference(d.Object), d.Kind})
		}
		return targets, nil
	case len(args) == 0:
		return nil, usageError{fault.Hint(fault.New(fault.Invalid, "delete: nothing named"), "Usage: ocicat delete KIND NAME, or -f FILE.")}
	}
	wants, err := parseReferences(args)
	if err != nil {
		return nil, err
	}
	for _, want := range wants {
		if len(want.names) == 0 {
			return nil, usageError{fault.Hint(fault.New(fault.Invalid, "delete %s: no name given", want.kind.Plural), "Usage: ocicat delete KIND NAME; every object is named.")}
		}
		for _, name := range want.names {
			targets = append(targets, target{store.Key{Kind: want.kind.Stored, Name: name}, want.kind.Plural + "/" + name, want.kind})
		}
	}
	return targets, nil
}

func (g *globals) delete(ctx context.Context, targets []target, ignore, force bool) error {
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	var errs []error
	for _, t := range targets {
		entry, err := s.Get(ctx, t.key)
		switch {
		case err == nil && t.key.Kind == store.IPPool && !force:
			err = checkUnused(ctx, s, entry)
		case fault.Is(err, fault.NotFound) && ignore:
			continue
		case fault.Is(err, fault.NotFound):
			err = fault.Hint(fault.New(fault.NotFound, "%s %q does not exist", t.kind.Name, t.key.Name), "\"ocicat get %s\" lists them; --ignore-not-found skips missing ones.", t.kind.Plural)
		}
		errs = append(errs, err)
	}
	if err := flatten(errs); err != nil {
		return err
	}
	for _, t := range targets {
		err := s.Delete(ctx, t.key, store.AnyRevision)
		switch {
		case fault.Is(err, fault.NotFound):
			g.note("%s was not there", t.reference)
		case err != nil:
			errs = append(errs, fmt.Errorf("delete %s: %w", t.reference, err))
		default:
			g.line("%s %s", t.reference, g.paint(good, "deleted"))
		}
	}
	return flatten(errs)
}

// checkUnused refuses to delete a pool some pod has an address of. Addresses
// that agents hold ready do not count, nor does a pool that cannot be read.
func checkUnused(ctx context.Context, s store.Store, entry store.Entry) error {
	object, err := resource.Decode(entry)
	if err != nil {
		return nil
	}
	pool, isPool := object.(*v3.IPPool)
	if !isPool {
		return nil
	}
	blocks, _, err := s.List(ctx, store.Block, "")
	if err != nil {
		return err
	}
	used := 0
	for _, e := range blocks {
		cidr, err := names.ParseBlock(e.Key.Name)
		if err != nil || !pool.CIDRPrefix().Overlaps(cidr) {
			continue
		}
		block, err := alloc.ParseBlock(e.Value)
		if err != nil {
			return fmt.Errorf("read %s: %w", e.Key, err)
		}
		used += len(block.HeldBy(func(a alloc.Attribute) bool {
			_, held := names.ParseReserveHandle(a.Handle)
			return !held
		}))
	}
	if used == 0 {
		return nil
	}
	return fault.Hint(fault.New(fault.Conflict, "delete ippools/%s: %d of its addresses in use", pool.Metadata.Name, used),
		"Set spec.disabled: true and move the pods first, or delete it with --force.")
}
