// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/spf13/cobra"
)

// The groups of commands, as the help text names them.
const (
	groupView      = "Look"
	groupResources = "Change"
	groupLab       = "Try"
	groupOther     = "More"
)

// commands is the table of verbs in the order of the help text, which lists a
// group where its first verb stands; each verb has a file of its name.
var commands = []struct {
	group string
	make  func(*globals) *cobra.Command
}{
	{groupView, newStatusCommand},
	{groupView, newBGPCommand},
	{groupView, newIPAMCommand},
	{groupView, newTraceCommand},
	{groupView, newConnectivityCommand},
	{groupView, newGetCommand},
	{groupResources, newApplyCommand},
	{groupResources, newDeleteCommand},
	{groupResources, newDrainCommand},
	{groupResources, newNodeCommand},
	{groupResources, newUninstallCommand},
	{groupLab, newLabCommand},
	{groupOther, newExplainCommand},
	{groupOther, newSysdumpCommand},
	{groupOther, newVersionCommand},
}

const rootLong = `ocicat shows and changes a cluster whose pods are routed by BGP.

It finds the cluster through --kubeconfig, --context, --etcd or --lab, else
DATASTORE_TYPE=kubernetes or ETCD_ENDPOINTS, else etcdEndpoints in
/etc/ocicat/ocicat.yaml, else the running lab, else as kubectl does: KUBECONFIG,
~/.kube/config, or the service account of the pod it runs in.`

const pluginLong = `kubectl ocicat shows and changes the network of a Kubernetes cluster whose pods
are routed by BGP.

It finds the cluster as kubectl does: --kubeconfig and --context, KUBECONFIG,
~/.kube/config, or the service account of the pod it runs in. On a node without
any of them it asks the node's agent, also while the API server is down.`

// newRoot builds the whole command tree.
func newRoot(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:               "ocicat",
		Short:             "Container network with BGP: show it, change it, prove it",
		Long:              rootLong,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.ArbitraryArgs,
		RunE:              runRoot,
		PersistentPreRunE: func(*cobra.Command, []string) error { return g.check() },
	}
	root.SetIn(g.stdin)
	root.SetOut(g.stdout)
	root.SetErr(g.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fault.Hint(err, "%s --help lists the flags.", c.CommandPath())}
	})
	g.addFlags(root)
	root.SetHelpCommandGroupID(groupOther)
	root.SetCompletionCommandGroupID(groupOther)
	for _, c := range commands {
		command := c.make(g)
		command.GroupID = c.group
		if !root.ContainsGroup(c.group) {
			root.AddGroup(&cobra.Group{ID: c.group, Title: c.group + ":"})
		}
		root.AddCommand(command)
	}
	checkUsage(root)
	if g.Program == KubectlPlugin {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: KubectlPlugin}
		root.Long = pluginLong
		renameProgram(root)
	}
	return root
}

// renameProgram has all texts name the program as kubectl's plugin.
func renameProgram(c *cobra.Command) {
	for _, text := range []*string{&c.Long, &c.Example} {
		*text = strings.NewReplacer("  "+Program+" ", "  "+KubectlPlugin+" ", `"`+Program+" ", `"`+KubectlPlugin+" ").Replace(*text)
	}
	for _, sub := range c.Commands() {
		renameProgram(sub)
	}
}

// runRoot answers a command line without a known verb.
func runRoot(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return root.Help()
	}
	return unknownCommand(root, args[0])
}

func unknownCommand(c *cobra.Command, word string) error {
	err := fault.New(fault.Invalid, "unknown command %q for %q", word, c.CommandPath())
	var words []string
	for _, sub := range c.Commands() {
		words = append(words, sub.Name())
	}
	if near := meta.DidYouMean(word, words); near != "" {
		return usageError{fault.Hint(err, "%s", near)}
	}
	return usageError{fault.Hint(err, "%s --help lists the commands.", c.CommandPath())}
}

// checkUsage makes wrong arguments of every command usage errors, and a group
// of commands refuse words that are none of them.
func checkUsage(c *cobra.Command) {
	for _, sub := range c.Commands() {
		checkUsage(sub)
	}
	if c.HasSubCommands() && c.RunE == nil && c.Run == nil {
		c.Args, c.RunE = cobra.ArbitraryArgs, runRoot
		return
	}
	check := c.Args
	if check == nil || c.RunE == nil {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{fault.Hint(fmt.Errorf("%s: %w", c.CommandPath(), err), "Usage: %s", c.UseLine())}
		}
		return nil
	}
}
