// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/resource"
)

// maxFile is the largest file read, in bytes.
const maxFile = 64 << 20

// readDocuments parses files, the files of directories, and "-" for standard
// input. All mistakes of all files are reported together; an object that
// stands in two places is one.
func (g *globals) readDocuments(paths []string) ([]resource.Document, error) {
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	var documents []resource.Document
	var errs []error
	for _, file := range files {
		name, text, err := g.readFile(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		docs, err := resource.Parse(name, text)
		documents = append(documents, docs...)
		errs = append(errs, err)
	}
	seen := map[string]string{}
	for _, d := range documents {
		key := resource.Reference(d.Object)
		if first, twice := seen[key]; twice && d.Object.ObjectMeta().Name != "" {
			errs = append(errs, fault.Hint(fault.New(fault.Invalid, "%s: %s stands in %s already", d.Where(""), resource.String(d.Object), first), "Remove one of the two."))
			continue
		}
		seen[key] = d.Where("")
	}
	return documents, flatten(errs)
}

func (g *globals) readFile(path string) (name string, text []byte, err error) {
	from := g.stdin
	name = "stdin"
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return "", nil, fileError(path, err)
		}
		defer f.Close()
		name, from = path, f
	}
	text, err = io.ReadAll(io.LimitReader(from, maxFile+1))
	if err != nil {
		return "", nil, fileError(path, err)
	}
	if len(text) > maxFile {
		return "", nil, fault.New(fault.Invalid, "read %s: more than %d MiB", path, maxFile>>20)
	}
	return name, text, nil
}

// expand replaces directories by the files in them that look like resources,
// sorted.
func expand(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case path == "-":
			files = append(files, path)
			continue
		case err != nil:
			return nil, fileError(path, err)
		case !info.IsDir():
			files = append(files, path)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fileError(path, err)
		}
		before := len(files)
		for _, e := range entries {
			if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == before {
			return nil, fault.New(fault.NotFound, "read %s: no .yaml, .yml or .json file in it", path)
		}
	}
	return files, nil
}

func fileError(path string, err error) error {
	kind := fault.Invalid
	if errors.Is(err, fs.ErrNotExist) {
		kind = fault.NotFound
	}
	var cause *fs.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return fault.New(kind, "read %s: %w", path, err)
}

// flatten joins errors; those that are joined errors themselves are taken
// apart, so that each is printed with its own hint.
func flatten(errs []error) error {
	var flat []error
	for _, err := range errs {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			flat = append(flat, many.Unwrap()...)
			continue
		}
		flat = append(flat, err)
	}
	return errors.Join(flat...)
}

// where begins a message about a document's field with file and line.
func where(d resource.Document, path string) string {
	return fmt.Sprintf("%s: %s: ", d.Where(path), resource.String(d.Object))
}
