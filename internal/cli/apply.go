// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/spf13/cobra"
)

func newApplyCommand(g *globals) *cobra.Command {
	var files []string
	var dry bool
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or change resources from files",
		Long: `apply writes the resources of files, of the files in a directory, or of
standard input. Everything is checked first, each object on its own, against
the others and against what is stored; if anything is wrong, nothing is written.
An object's spec and labels are replaced as a whole.`,
		Example: `  ocicat apply -f pool.yaml
  ocicat apply -f cluster/ --dry-run
  ocicat get ippool a -o yaml | sed s/true/false/ | ocicat apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usageError{fault.Hint(fault.New(fault.Invalid, "apply: no file given"), "Usage: ocicat apply -f FILE, -f DIRECTORY or -f -.")}
			}
			return g.apply(c.Context(), files, dry)
		},
	}
	c.Flags().StringArrayVarP(&files, "filename", "f", nil, "read `FILE`, a directory, or - for standard input; may be given again")
	c.Flags().BoolVar(&dry, "dry-run", false, "check and say what would be done, and write nothing")
	return c
}

// change is one object to write and what is stored in its place.
type change struct {
	document resource.Document
	stored   resource.Object // nil when it does not exist
	entry    store.Entry     // of stored
}

// applied is one line of apply's answer.
type applied struct {
	Resource string `json:"resource"`
	Result   string `json:"result"` // created, configured, unchanged or failed
}

func (g *globals) apply(ctx context.Context, files []string, dry bool) error {
	documents, err := g.readDocuments(files)
	if err != nil {
		return err
	}
	if err := g.checkAlone(documents); err != nil {
		return err
	}
	s, err := g.openStore(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	changes, err := g.checkStored(ctx, s, documents)
	if err != nil {
		return err
	}
	var results []applied
	var errs []error
	for _, c := range changes {
		result, err := g.write(ctx, s, c, dry)
		errs = append(errs, err)
		results = append(results, applied{resource.Reference(c.document.Object), result})
	}
	if err := g.printApplied(results, dry); err != nil {
		errs = append(errs, err)
	}
	return flatten(errs)
}

// checkAlone validates every document on its own and prints notices.
func (g *globals) checkAlone(documents []resource.Document) error {
	var errs []error
	for _, d := range documents {
		if d.Kind.ReadOnly {
			errs = append(errs, fault.Hint(fault.New(fault.Invalid, "%s: %s: only agents write this kind", d.Where(""), resource.String(d.Object)), "Remove it from the file."))
			continue
		}
		d.Object.SetDefaults()
		findings := resource.Validate(d.Object)
		errs = append(errs, resource.Errors(findings, func(f meta.Finding) string { return where(d, f.Path) }))
		for _, f := range findings {
			if f.Level == meta.Notice {
				g.warn("%s%s", where(d, f.Path), f.Error())
			}
		}
	}
	return flatten(errs)
}

// checkStored validates the documents against each other and what is stored.
// What was wrong in the store before does not count.
func (g *globals) checkStored(ctx context.Context, s store.Store, documents []resource.Document) ([]change, error) {
	pools, err := g.listStored(ctx, s, store.IPPool)
	if err != nil {
		return nil, err
	}
	nodes, err := g.listStored(ctx, s, store.Node)
	if err != nil {
		return nil, err
	}
	before := append(pools, nodes...)
	after := slices.Clone(before)
	var changes []change
	var errs []error
	for _, d := range documents {
		c, err := readChange(ctx, s, d)
		errs = append(errs, err)
		changes = append(changes, c)
		after = slices.DeleteFunc(after, func(o resource.Object) bool { return resource.Key(o) == resource.Key(d.Object) })
		after = append(after, d.Object)
	}
	old := resource.ValidateTogether(before)
	findings := slices.DeleteFunc(resource.ValidateTogether(after), func(f meta.Finding) bool { return slices.Contains(old, f) })
	errs = append(errs, resource.Errors(findings, func(f meta.Finding) string {
		for _, d := range documents {
			if resource.String(d.Object) == f.Object {
				return d.Where(f.Path) + ": "
			}
		}
		return ""
	}))
	return changes, flatten(errs)
}

func (g *globals) listStored(ctx context.Context, s store.Store, stored store.Kind) ([]resource.Object, error) {
	kind, _ := resource.FindStored(stored)
	return g.list(ctx, s, kind)
}

// readChange reads what is stored in a document's place and checks that the
// document may replace it.
func readChange(ctx context.Context, s store.Store, d resource.Document) (change, error) {
	c := change{document: d}
	wanted, err := resource.Revision(d.Object)
	if err != nil {
		return c, err
	}
	c.entry, err = s.Get(ctx, resource.Key(d.Object))
	if fault.Is(err, fault.NotFound) {
		if wanted == 0 {
			return c, nil
		}
		return c, fault.Hint(fault.New(fault.Conflict, "%sit was deleted meanwhile", where(d, "metadata.resourceVersion")), "Remove metadata.resourceVersion to create it again.")
	}
	if err != nil {
		return c, err
	}
	if wanted != 0 && wanted != c.entry.Revision {
		return c, fault.Hint(fault.New(fault.Conflict, "%sit was changed meanwhile (revision %d, the file has %d)", where(d, "metadata.resourceVersion"), c.entry.Revision, wanted),
			"Get it again, make your change there, and apply that.")
	}
	c.stored, err = resource.Decode(c.entry)
	if err != nil {
		return c, fault.Hint(fmt.Errorf("%swill not overwrite what is stored: %w", where(d, ""), err), "Delete it first: ocicat delete %s", resource.Reference(d.Object))
	}
	return c, resource.Errors(resource.ValidateUpdate(d.Object, c.stored), func(f meta.Finding) string { return where(d, f.Path) })
}

// writeTries bounds how often a write is repeated whose object somebody else
// changed in between.
const writeTries = 5

// write makes one change and says what it was.
func (g *globals) write(ctx context.Context, s store.Store, c change, dry bool) (result string, err error) {
	pinned := c.document.Object.ObjectMeta().ResourceVersion != ""
	for range writeTries {
		result, err = g.writeOnce(ctx, s, c, dry)
		if !fault.Is(err, fault.Conflict) || pinned {
			break
		}
		if c, err = readChange(ctx, s, c.document); err != nil {
			break
		}
	}
	if err != nil {
		return "failed", fmt.Errorf("apply %s: %w", resource.Reference(c.document.Object), err)
	}
	return result, nil
}

func (g *globals) writeOnce(ctx context.Context, s store.Store, c change, dry bool) (string, error) {
	o, result := c.document.Object, "configured"
	if c.stored == nil {
		resource.Create(o, resource.NewUID(), g.Now())
		result = "created"
	} else {
		resource.Replace(o, c.stored)
	}
	value, err := resource.Encode(o, c.entry.Value)
	if err != nil {
		return "", err
	}
	if c.stored != nil && resource.Equal(value, c.entry.Value) {
		return "unchanged", nil
	}
	if dry {
		return result, nil
	}
	_, err = s.Put(ctx, resource.Key(o), value, c.entry.Revision)
	return result, err
}

func (g *globals) printApplied(results []applied, dry bool) error {
	names := []string{}
	for _, r := range results {
		names = append(names, r.Resource)
	}
	switch g.output {
	case "json", "yaml", "name":
		return g.show(results, names, nil)
	}
	suffix := ""
	if dry {
		suffix = " (dry run)"
	}
	for _, r := range results {
		s := good
		switch r.Result {
		case "unchanged":
			s = dim
		case "failed":
			s = bad
		}
		g.line("%s %s%s", r.Resource, g.paint(s, r.Result), suffix)
	}
	return nil
}
