// SPDX-License-Identifier: Apache-2.0

// Command report runs the reliability tests and writes what they measured to
// docs/reliability.md. By default it runs the numbers of CI and writes nothing;
// -full runs the full numbers and writes the table, -write the table from
// those of CI. -run and packages choose a part: then the other rows stay as
// they were, and so does a row in full numbers that only CI's were run of.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ocicat-net/ocicat/test/chaos"
)

// recordsFile keeps the records between runs, so that a part of the suite can
// be run again.
const recordsFile = "test/chaos/records.json"

// recorder is what a test that records a case imports.
const recorder = "github.com/ocicat-net/ocicat/test/chaos"

func main() {
	var (
		full  = flag.Bool("full", false, "run the full numbers and write docs/reliability.md")
		write = flag.Bool("write", false, "write docs/reliability.md from the numbers of CI")
		run   = flag.String("run", "", "only tests matching `regexp`")
		limit = flag.Duration("limit", 6*time.Hour, "`time` all may take")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := suite(ctx, *full, *full || *write, *run, *limit, flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "chaos: %v\n", err)
		os.Exit(1)
	}
}

// suite runs the tests and, if asked, brings the table up to date.
func suite(ctx context.Context, full, write bool, run string, limit time.Duration, packages []string) error {
	dir, err := os.MkdirTemp("", "ocicat-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if len(packages) == 0 {
		if packages, err = recording(ctx, write); err != nil {
			return err
		}
	}
	testErr := test(ctx, dir, full, run, limit, packages)
	if !write {
		return testErr
	}
	return errors.Join(testErr, update(dir))
}

// recording are the packages of the suite: those below test/chaos, and for the
// table also all others whose tests record a case.
func recording(ctx context.Context, table bool) ([]string, error) {
	packages := []string{"./test/chaos/..."}
	if !table {
		return packages, nil
	}
	format := `{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}`
	out, err := exec.CommandContext(ctx, "go", "list", "-f", format, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		for _, imported := range words[1:] {
			if imported == recorder && !strings.HasPrefix(words[0], recorder) {
				packages = append(packages, words[0])
				break
			}
		}
	}
	return packages, nil
}

// test runs go test by way of test/count, which counts.
func test(ctx context.Context, dir string, full bool, run string, limit time.Duration, packages []string) error {
	perPackage := limit
	args := []string{"run", "./test/count", "-again", "-limit", limit.String(), "-timeout", perPackage.String()}
	if run != "" {
		args = append(args, "-run", run)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), chaos.EnvDir+"="+dir)
	if full {
		cmd.Env = append(cmd.Env, chaos.EnvFull+"=1")
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd.Run()
}

// update merges the records of this run into the kept ones and writes the
// table.
func update(dir string) error {
	kept, err := load(recordsFile)
	if err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, path := range found {
		r, err := read(path)
		if err != nil {
			return err
		}
		if r.Package, err = filepath.Rel(root, r.Package); err != nil {
			return err
		}
		key := r.Package + " " + r.Test + " " + r.ID + " " + r.Provoked
		if old := kept[key]; old != nil && old.Full && !r.Full && !r.Failed {
			continue
		}
		kept[key] = r
	}
	dropBounded(kept)
	if err := save(recordsFile, kept); err != nil {
		return err
	}
	return os.WriteFile("docs/reliability.md", []byte(table(sorted(kept))), 0o644)
}

// dropBounded drops the numbers of CI of a test's case where there are full
// ones, which may say otherwise how the case was provoked.
func dropBounded(kept map[string]*chaos.Record) {
	of := func(r *chaos.Record) string { return r.Package + " " + r.Test + " " + r.ID }
	full := map[string]bool{}
	for _, r := range kept {
		full[of(r)] = full[of(r)] || r.Full
	}
	maps.DeleteFunc(kept, func(_ string, r *chaos.Record) bool { return full[of(r)] && !r.Full && !r.Failed })
}

func read(path string) (*chaos.Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &chaos.Record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func load(path string) (map[string]*chaos.Record, error) {
	kept := map[string]*chaos.Record{}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return kept, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*chaos.Record
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, r := range list {
		kept[r.Package+" "+r.Test+" "+r.ID+" "+r.Provoked] = r
	}
	return kept, nil
}

func save(path string, kept map[string]*chaos.Record) error {
	data, err := json.MarshalIndent(sorted(kept), "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
