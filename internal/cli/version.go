// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/ocicat-net/ocicat/internal/buildinfo"
	"github.com/spf13/cobra"
)

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say what this program was built from",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := buildinfo.Read()
			if g.output == "json" || g.output == "yaml" {
				return g.show(info, nil, nil)
			}
			text := "ocicat " + info.Version
			if info.Commit != "" {
				text += " (" + info.Commit[:min(12, len(info.Commit))] + " of " + info.Date + ")"
			}
			_, err := fmt.Fprintf(g.stdout, "%s %s %s\n", text, info.Go, info.Platform)
			return err
		},
	}
}
