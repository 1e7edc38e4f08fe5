// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/buildinfo"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/resource"
)

func newSysdumpCommand(g *globals) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "sysdump",
		Short: "Collect what is known of the cluster in one file, to ask for help with",
		Long: `Write an archive (tar.gz) with the status, all objects of the datastore, and what
each agent within reach says: its report, sessions, paths, routes and pods. On
Kubernetes also what the containers of agents and controller said, the newest
5000 lines and at most 1 MiB of each, and before their last restart, and Events.
What does not answer is left out and named in errors.txt; index.json lists all
files and says what was cut. Passwords, tokens and other secrets are replaced by
"redacted"; names and addresses are not.

Exit code 10 means that something did not answer.`,
		Example: `  ocicat sysdump
  ocicat sysdump --file /tmp/before-upgrade.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.sysdump(c.Context(), file) },
	}
	c.Flags().StringVarP(&file, "file", "f", "", "write to `FILE`, which must not exist; default ocicat-sysdump-TIME.tar.gz")
	return c
}

func (g *globals) sysdump(ctx context.Context, file string) error {
	at := g.Now().UTC()
	if file == "" {
		file = "ocicat-sysdump-" + at.Format("20060102T150405Z") + ".tar.gz"
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.Hint(fault.New(fault.Invalid, "write dump: %w", err), "Name a file that does not exist yet with --file.")
	}
	d := newDump(out, at)
	g.dumpStore(ctx, d)
	g.dumpAgents(ctx, d)
	g.dumpKubernetes(ctx, d)
	err = errors.Join(d.finish(), out.Close())
	if err == nil && d.useful == 0 {
		err = fault.New(fault.Unavailable, "dump: nothing of the cluster answers")
	}
	if err != nil {
		return errors.Join(err, os.Remove(file))
	}
	g.line("%s: %d files", file, len(d.files))
	g.incomplete = len(d.missing) > 0
	return nil
}

// dumpStore adds the status and all objects.
func (g *globals) dumpStore(ctx context.Context, d *dump) {
	s, err := g.openStore(ctx)
	if err != nil {
		g.miss(d, "datastore", err)
		return
	}
	defer s.Close()
	for _, kind := range resource.Kinds() {
		objects, err := g.list(ctx, s, kind)
		if err != nil {
			g.miss(d, kind.Plural, err)
			continue
		}
		d.addJSON("resources/"+kind.Plural+".json", objects)
	}
	list, err := g.statuses(ctx)
	if err != nil {
		g.miss(d, "status", err)
		return
	}
	var text bytes.Buffer
	plain := *g
	plain.stdout, plain.output = &text, "wide"
	if err := plain.printStatus(list); err != nil {
		g.miss(d, "status", err)
		return
	}
	d.add("status.txt", text.Bytes())
}

// dumpAgents adds what agents say, each until it does not answer.
func (g *globals) dumpAgents(ctx context.Context, d *dump) {
	doors, err := g.doors(ctx, tracerGuest)
	if err != nil {
		g.miss(d, "agents", err)
		return
	}
	byClient := map[*admin.Client]string{}
	for _, door := range doors {
		byClient[door.client] = door.node
	}
	for _, said := range askDoors(ctx, g, doors, func(ctx context.Context, agent *admin.Client) (struct{}, error) {
		return struct{}{}, d.agent(ctx, byClient[agent], agent)
	}) {
		if said.err != nil {
			g.miss(d, said.node, said.err)
		}
	}
}

// agent adds what one agent says.
func (d *dump) agent(ctx context.Context, node string, agent *admin.Client) error {
	for _, part := range []struct {
		name string
		ask  func() (any, error)
	}{
		{"report", func() (any, error) { return agent.Report(ctx) }},
		{"sessions", func() (any, error) { return agent.Sessions(ctx) }},
		{"endpoints", func() (any, error) { return agent.Endpoints(ctx) }},
		{"routes", func() (any, error) { return agent.Routes(ctx) }},
		{"paths", func() (any, error) { return agent.Paths(ctx) }},
	} {
		value, err := part.ask()
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		d.addJSON(path.Join("nodes", node, part.name+".json"), value)
	}
	return nil
}

// miss notes what does not answer, for the reader now and in the archive.
func (g *globals) miss(d *dump, what string, err error) {
	g.warn("%s: %v", what, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.missing = append(d.missing, fmt.Sprintf("%s: %v", what, err))
}

// dump is an archive that is being written. What goes wrong in writing is told
// at its end.
type dump struct {
	at time.Time

	mu      sync.Mutex
	zip     *gzip.Writer
	tar     *tar.Writer
	err     error
	files   []dumpFile
	useful  int // files of the cluster
	missing []string
}

// dumpFile is a file of a dump as its index names it.
type dumpFile struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	Note  string `json:"note,omitempty"` // what is not there
}

// dumpIndex is the index of a dump.
type dumpIndex struct {
	Complete bool       `json:"complete"` // nothing failed, nothing was cut
	Files    []dumpFile `json:"files"`
	Missing  []string   `json:"missing,omitempty"`
}

func newDump(out io.Writer, at time.Time) *dump {
	zip := gzip.NewWriter(out)
	return &dump{at: at, zip: zip, tar: tar.NewWriter(zip)}
}

// dumpDir is the directory all files of a dump are in.
const dumpDir = "ocicat-sysdump"

func (d *dump) add(name string, data []byte) { d.addNoted(name, data, "") }

// addNoted adds a file of which note says what is not there.
func (d *dump) addNoted(name string, data []byte, note string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.useful++
	d.write(name, data, note)
}

func (d *dump) write(name string, data []byte, note string) {
	if d.err != nil {
		return
	}
	d.err = d.tar.WriteHeader(&tar.Header{Name: path.Join(dumpDir, name), Mode: 0o600, Size: int64(len(data)), ModTime: d.at})
	if d.err == nil {
		_, d.err = d.tar.Write(data)
	}
	d.files = append(d.files, dumpFile{name, len(data), note})
}

// addJSON adds a value without its secrets.
func (d *dump) addJSON(name string, value any) {
	data, err := redacted(value)
	if err != nil {
		data = []byte(err.Error())
	}
	d.add(name, data)
}

// finish adds what the dump is, and what it lacks.
func (d *dump) finish() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	slices.Sort(d.missing)
	for i, text := range d.missing {
		d.missing[i] = string(redactText([]byte(text)))
	}
	d.write("version.txt", fmt.Appendf(nil, "ocicat %s\n%s\n", buildinfo.Read().Version, d.at.Format(time.RFC3339)), "")
	if len(d.missing) > 0 {
		d.write("errors.txt", []byte(lines(d.missing)), "")
	}
	slices.SortFunc(d.files, func(a, b dumpFile) int { return cmp.Compare(a.Name, b.Name) })
	cut := slices.ContainsFunc(d.files, func(f dumpFile) bool { return f.Note != "" })
	index, err := json.MarshalIndent(dumpIndex{Complete: len(d.missing) == 0 && !cut, Files: d.files, Missing: d.missing}, "", "  ")
	d.err = errors.Join(d.err, err)
	d.write("index.json", index, "")
	if err := errors.Join(d.err, d.tar.Close(), d.zip.Close()); err != nil {
		return fault.New(fault.Invalid, "write dump: %w", err)
	}
	return nil
}
