// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ocicat-net/ocicat/internal/admin"
	"github.com/ocicat-net/ocicat/internal/fault"
)

func newDrainCommand(g *globals) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "drain NODE",
		Short: "End a node's BGP sessions so that its peers forget it at once",
		Long: `End all BGP sessions of a node with a Cease: its peers withdraw its routes at
once instead of keeping them for a restart. Do this before a node is taken out
of service for good. Its pods lose their traffic from other nodes; the sessions
come back when the agent is restarted.`,
		Example: `  ocicat drain k8s-node-1 --reason "disk replacement"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if g.node != "" && g.node != args[0] {
				return usageError{fault.New(fault.Invalid, "--node %s and NODE %s differ: want one of them", g.node, args[0])}
			}
			g.node = args[0]
			doors, err := g.doors(c.Context(), adminGuest)
			if err != nil {
				return err
			}
			drain := func(ctx context.Context, agent *admin.Client) (struct{}, error) {
				return struct{}{}, agent.Drain(ctx, reason)
			}
			if err := askDoors(c.Context(), g, doors[:1], drain)[0].err; err != nil {
				return fmt.Errorf("drain %s: %w", args[0], err)
			}
			fmt.Fprintf(g.stdout, "node/%s drained: its sessions stay down until its agent is restarted\n", args[0])
			return nil
		},
	}
	c.Flags().StringVar(&reason, "reason", "maintenance", "`TEXT` the peers are told (RFC 9003)")
	return c
}
