// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/install"
)

// agentTimeout is how long an agent has to accept a connection before this
// node counts as one without.
const agentTimeout = time.Second

// uninstallFlags are what the uninstall command is told.
type uninstallFlags struct {
	install.Config
	runDir string
}

func newUninstallCommand(g *globals) *cobra.Command {
	f := uninstallFlags{Config: install.Config{Conflist: install.Conflist{Network: install.DefaultNetwork}}}
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the CNI configuration and plugins from this node",
		Long: `Remove from this node, as root, the CNI configuration and then the plugins an
agent installed. The node gets no new pods afterwards. Routes, rules and sysctls
stay, and with them the network of the pods that run; an agent that is installed
again takes these over. Files of others stay.

Stop the agent first: it would install all of it again.`,
		Example: `  ocicat uninstall`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			socket := filepath.Join(f.runDir, "cni.sock")
			if agentListens(c.Context(), socket) {
				return fault.Hint(fault.New(fault.Conflict, "uninstall: an agent serves pods at %s", socket), "Stop it first: it would install the plugin again.")
			}
			if err := install.Uninstall(f.Config, slog.New(slog.NewTextHandler(g.stderr, nil))); err != nil {
				return err
			}
			fmt.Fprintln(g.stdout, "uninstalled: the node gets no new pods, those that run keep their network")
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.BinDir, "cni-bin-dir", "/opt/cni/bin", "`DIRECTORY` of the runtime's CNI plugins")
	flags.StringVar(&f.NetDir, "cni-net-dir", "/etc/cni/net.d", "`DIRECTORY` of the runtime's CNI configurations")
	flags.StringVar(&f.Source, "cni-source", "/opt/ocicat/bin", "`DIRECTORY` the plugins were installed from; shared plugins not found there stay")
	flags.StringVar(&f.Conflist.File, "cni-conf-name", install.DefaultFile, "`NAME` of our CNI configuration")
	flags.StringVar(&f.runDir, "run-dir", "/run/ocicat", "`DIRECTORY` of the agent's sockets")
	return c
}

// agentListens says whether somebody accepts connections at the plugin's
// socket. A socket a dead agent left refuses them.
func agentListens(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
