// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/mem"
	"github.com/ocicat-net/ocicat/internal/storeopen"
)

// now is the clock of the scripts.
var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// scene is what one script has: a datastore and the last exit code.
type scene struct {
	store store.Store
	code  int
}

// shared is the script's datastore, which commands must not close.
type shared struct{ store.Store }

func (shared) Close() error { return nil }

// TestScripts runs the command line in testdata against a datastore in memory.
// Besides testscript's own commands they use
//
//	ocicat ARGS…         the command line; "!" expects an exit code other than 0
//	code N               the last exit code
//	store put KIND NAME FILE, store cat KIND NAME, store rev KIND NAME
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Values["scene"] = &scene{store: mem.New()}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ocicat": runOcicat,
			"code":   checkCode,
			"store":  runStore,
		},
	})
}

func sceneOf(ts *testscript.TestScript) *scene { return ts.Value("scene").(*scene) }

var anyUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

// runOcicat prints paths below the script's directory relative to it, and
// random UIDs as UID.
func runOcicat(ts *testscript.TestScript, neg bool, args []string) {
	w := sceneOf(ts)
	var stdout, stderr bytes.Buffer
	cfg := Config{
		Program: System(ts.Getenv("OCICAT_AS")).Program,
		Stdin:   strings.NewReader(readStdin(ts)), Stdout: &stdout, Stderr: &stderr,
		Getenv: ts.Getenv, Now: func() time.Time { return now },
		ConfigFile: ts.MkAbs("ocicat.yaml"), LabDir: ts.MkAbs("labs"), AdminSocket: ts.MkAbs("admin.sock"),
		OpenStore: func(_ context.Context, choice storeopen.Choice) (store.Store, error) {
			if !choice.Kubernetes && choice.Endpoints[0] == "http://refused" {
				return nil, fault.New(fault.Unavailable, "connection refused")
			}
			return shared{w.store}, nil
		},
	}
	for i, arg := range args {
		if (arg == "-f" || arg == "--filename" || arg == "--from-report") && i+1 < len(args) && args[i+1] != "-" {
			args[i+1] = ts.MkAbs(args[i+1])
		}
	}
	w.code = Run(context.Background(), cfg, args)
	for _, stream := range []struct {
		from *bytes.Buffer
		to   io.Writer
	}{{&stdout, ts.Stdout()}, {&stderr, ts.Stderr()}} {
		text := strings.ReplaceAll(stream.from.String(), ts.MkAbs(".")+"/", "")
		_, err := io.WriteString(stream.to, anyUID.ReplaceAllString(text, "UID"))
		ts.Check(err)
	}
	if (w.code != 0) != neg {
		ts.Fatalf("exit code %d", w.code)
	}
}

// readStdin is what the script saved in the file "stdin".
func readStdin(ts *testscript.TestScript) string {
	path := ts.MkAbs("stdin")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	ts.Check(err)
	return string(text)
}

func checkCode(ts *testscript.TestScript, neg bool, args []string) {
	if want, err := strconv.Atoi(args[0]); neg || len(args) != 1 || err != nil || sceneOf(ts).code != want {
		ts.Fatalf("exit code %d, want %v", sceneOf(ts).code, args)
	}
}

func runStore(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: store put|cat|rev KIND NAME [FILE]")
	}
	s, key := sceneOf(ts).store, store.Key{Kind: store.Kind(args[1]), Name: args[2]}
	if args[0] == "put" {
		_, err := s.Put(context.Background(), key, []byte(strings.TrimSpace(ts.ReadFile(args[3]))), store.AnyRevision)
		ts.Check(err)
		return
	}
	entry, err := s.Get(context.Background(), key)
	ts.Check(err)
	out := entry.Value
	if args[0] == "rev" {
		out = strconv.AppendUint(nil, uint64(entry.Revision), 10)
	}
	_, err = ts.Stdout().Write(append(bytes.TrimSpace(out), '\n'))
	ts.Check(err)
}
