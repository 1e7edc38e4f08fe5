// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/kubeapi"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/storeopen"
	"github.com/spf13/cobra"
)

// globals are the flags every verb has, and what they stand for.
type globals struct {
	Config
	stdin          streamIn
	stdout, stderr streamOut

	output string // -o: "", wide, json, yaml or name
	lab    string // --lab: a running lab's name
	etcd   string // --etcd: endpoints joined by commas
	node   string // --node: restrict to one node

	kubeconfig  string // --kubeconfig: a file of kubectl
	kubeContext string // --context: one of its contexts
	kubeCluster string // --cluster: one of its clusters
	kubeUser    string // --user: one of its users
	kubeToken   string // --token: instead of the user's credentials
	kubeAs      kubeapi.Impersonation

	noColor bool
	verbose bool // -v: say what is done on standard error

	opened place       // the datastore last opened, for hints
	agents *kubeAgents // of the Kubernetes cluster, once they were needed
	ends   []func()    // what Run ends with

	incomplete bool // agents that should have answered did not
}

// close releases what the verb has opened and not closed.
func (g *globals) close() {
	for _, end := range g.ends {
		end()
	}
}

func newGlobals(cfg Config) *globals {
	return &globals{Config: cfg, stdin: cfg.Stdin, stdout: cfg.Stdout, stderr: cfg.Stderr}
}

// outputs are the values of -o.
var outputs = []string{"wide", "json", "yaml", "name"}

func (g *globals) addFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&g.output, "output", "o", "", "print as `FORMAT`: wide, json, yaml or name")
	f.StringVar(&g.lab, "lab", "", "use the running lab `NAME`")
	f.StringVar(&g.etcd, "etcd", "", "use the datastore at these `ENDPOINTS`, joined by commas")
	f.StringVar(&g.kubeconfig, "kubeconfig", "", "use the Kubernetes cluster of this `FILE`")
	f.StringVar(&g.kubeContext, "context", "", "use this `CONTEXT` of the kubeconfig")
	f.StringVar(&g.kubeCluster, "cluster", "", "use this `CLUSTER` of the kubeconfig")
	f.StringVar(&g.kubeUser, "user", "", "use this `USER` of the kubeconfig")
	f.StringVar(&g.kubeToken, "token", "", "show the API server this `TOKEN` instead of the user's credentials")
	f.StringVar(&g.kubeAs.User, "as", "", "act on Kubernetes as this `USER`, with your right to impersonate")
	f.StringVar(&g.kubeAs.UID, "as-uid", "", "with --as: the user's `UID`")
	f.StringArrayVar(&g.kubeAs.Groups, "as-group", nil, "with --as: a `GROUP` of the user; may be repeated")
	f.StringVar(&g.node, "node", "", "show only `NODE`")
	f.BoolVar(&g.noColor, "no-color", false, "print without colours (also NO_COLOR)")
	f.BoolVarP(&g.verbose, "verbose", "v", false, "say on standard error what is done")
	mustComplete(root, "output", func() []string { return outputs })
	mustComplete(root, "lab", func() []string { return g.labNames() })
}

// mustComplete offers words for a flag in the shell. It panics if the flag does
// not exist.
func mustComplete(c *cobra.Command, flag string, words func() []string) {
	err := c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words(), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err)
	}
}

// check refuses values of the global flags that no verb could use.
func (g *globals) check() error {
	if g.output != "" && !slices.Contains(outputs, g.output) {
		err := fault.New(fault.Invalid, "--output %q: want wide, json, yaml or name", g.output)
		return usageError{fault.Hint(err, "%s", meta.DidYouMean(g.output, outputs))}
	}
	if !filepath.IsAbs(g.LabDir) {
		return usageError{fault.New(fault.Invalid, "%s %q: not an absolute path", envLabDir, g.LabDir)}
	}
	var where []string
	for _, flag := range []struct{ name, value string }{{"--lab", g.lab}, {"--etcd", g.etcd}, {"--kubeconfig", g.kubeconfig}, {"--context", g.kubeContext}} {
		if flag.value != "" && !(flag.name == "--context" && g.kubeconfig != "") {
			where = append(where, flag.name)
		}
	}
	if flag := g.kubeFlag(); flag != "" && (g.etcd != "" || g.lab != "") {
		return usageError{fault.New(fault.Invalid, "%s is about Kubernetes, %s is not: want one of them", flag, where[0])}
	}
	if g.kubeAs.Given() && g.kubeAs.User == "" {
		return usageError{fault.Hint(fault.New(fault.Invalid, "--as-group or --as-uid without --as"), "Name the user with --as.")}
	}
	if len(where) > 1 {
		return usageError{fault.New(fault.Invalid, "%s all say where the cluster is: want one of them", joined(where))}
	}
	return nil
}

// kubeFlag is a flag in use that says something of Kubernetes alone, beside
// --kubeconfig and --context; "" where none is.
func (g *globals) kubeFlag() string {
	switch {
	case g.kubeCluster != "":
		return "--cluster"
	case g.kubeUser != "":
		return "--user"
	case g.kubeToken != "":
		return "--token"
	case g.kubeAs.Given():
		return "--as"
	}
	return ""
}

// say writes one line about what is done to standard error, with -v.
func (g *globals) say(format string, args ...any) {
	if g.verbose {
		fmt.Fprintf(g.stderr, "ocicat: "+format+"\n", args...)
	}
}

// warn writes one line that the reader should not miss to standard error.
func (g *globals) warn(format string, args ...any) {
	fmt.Fprintf(g.stderr, "ocicat: %s %s\n", g.errPaint(warned, "warning:"), fmt.Sprintf(format, args...))
}

// openStore opens the cluster's datastore; the caller closes it.
func (g *globals) openStore(ctx context.Context) (store.Store, error) {
	where, err := g.locate()
	if err != nil {
		return nil, err
	}
	g.say("datastore %s (%s)", strings.Join(where.endpoints, ","), where.source)
	g.opened = where
	choice := storeopen.Choice{Endpoints: where.endpoints, Getenv: g.Getenv}
	if where.kube != nil {
		client, err := where.kube.connect(ctx)
		if err != nil {
			return nil, err
		}
		choice = storeopen.Choice{Kubernetes: true, Client: client, Getenv: g.Getenv}
	}
	s, err := g.OpenStore(ctx, choice)
	if err != nil {
		return nil, fmt.Errorf("open datastore at %s (%s): %w", strings.Join(where.endpoints, ","), where.source, err)
	}
	return s, nil
}
