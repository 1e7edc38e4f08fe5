// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line ocicat: one file per verb. A verb parses its
// arguments, asks the datastore or an agent, and prints; what is right or
// wrong is decided in the packages below it.
//
// The contract with the reader is docs/cli.md: what was asked for goes to
// standard output, everything else to standard error; errors are one line
// "ocicat: error: …" and, where something can be done, one line
// "ocicat: hint: …"; the exit code says the kind of error.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/storeopen"
)

// Exit codes that are not the kind of an error (fault.Kind has 1 and 3 to 8).
const (
	ExitOK       = 0
	ExitUsage    = 2  // unknown command or flag, wrong number of arguments
	ExitProblems = 10 // the command worked, and found something wrong
)

// Config is what the command line needs of the world.
type Config struct {
	// Stdin, Stdout and Stderr are the streams.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads the environment.
	Getenv func(string) string
	// Now is the clock that ages are counted from.
	Now func() time.Time
	// Program is how people call the command line, in help texts: "ocicat" or
	// KubectlPlugin.
	Program string
	// OpenStore opens a datastore.
	OpenStore func(ctx context.Context, choice storeopen.Choice) (store.Store, error)
	// ConfigFile names the file that says where the datastore is.
	ConfigFile string
	// LabDir is the directory in which running labs have theirs.
	LabDir string
	// AdminSocket is where this machine's agent answers.
	AdminSocket string
}

// The names by which people call the command line: as a program, and as
// kubectl's plugin, which speaks to Kubernetes alone.
const (
	Program       = "ocicat"
	KubectlPlugin = "kubectl ocicat"
)

// Default locations.
const (
	DefaultConfigFile  = "/etc/ocicat/ocicat.yaml"
	DefaultLabDir      = "/run/ocicat-lab"
	DefaultAdminSocket = "/run/ocicat/admin.sock"
)

// envLabDir names the environment variable that says where labs have their
// directories.
const envLabDir = "OCICAT_LAB_DIR"

// System is the Config of a process that was called by name: its streams,
// environment and clock, and the default locations.
func System(name string) Config {
	program := Program
	if filepath.Base(name) == "kubectl-ocicat" { // as kubectl calls a plugin
		program = KubectlPlugin
	}
	return Config{
		Program: program,
		Stdin:   os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Now: time.Now,
		ConfigFile: DefaultConfigFile, LabDir: cmp.Or(os.Getenv(envLabDir), DefaultLabDir), AdminSocket: DefaultAdminSocket,
	}
}

// Run executes one command line without the program's name, prints its errors
// and returns the exit code.
func Run(ctx context.Context, cfg Config, args []string) int {
	g := newGlobals(cfg)
	defer g.close()
	root := newRoot(g)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil && g.incomplete {
		err = errProblems
	}
	if err == nil {
		return ExitOK
	}
	g.printError(err)
	return exitCode(err)
}

// found is the error of a command that worked and found something wrong. It
// has been printed already.
type found struct{}

func (found) Error() string { return "problems were found" }

// errProblems makes the exit code ExitProblems and prints nothing.
var errProblems error = found{}

// usageError is a wrong command line.
type usageError struct{ err error }

func (u usageError) Error() string { return u.err.Error() }
func (u usageError) Unwrap() error { return u.err }

// exitWith is the error of a command whose exit code is another program's.
type exitWith int

func (e exitWith) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func exitCode(err error) int {
	var other exitWith
	switch {
	case errors.As(err, &other):
		return int(other)
	case errors.Is(err, errProblems):
		return ExitProblems
	case errors.As(err, &usageError{}):
		return ExitUsage
	}
	return fault.KindOf(err).ExitCode()
}

// printError writes err and its hint to standard error; an error that joins
// several is written as several.
func (g *globals) printError(err error) {
	if errors.Is(err, errProblems) || errors.As(err, new(exitWith)) {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			g.printError(one)
		}
		return
	}
	fmt.Fprintf(g.stderr, "ocicat: %s %v\n", g.errPaint(bad, "error:"), err)
	hint := fault.HintOf(err)
	switch {
	case kubeapi.IsForbidden(err):
		hint = roleHint(err)
	case hint == "" && fault.Is(err, fault.Unavailable) && g.opened.source != "":
		hint = fmt.Sprintf("The datastore is looked for at %s (%s): is it running?", strings.Join(g.opened.endpoints, ", "), g.opened.source)
	}
	if hint != "" {
		fmt.Fprintf(g.stderr, "ocicat: %s %s\n", g.errPaint(dim, "hint:"), hint)
	}
}
