// SPDX-License-Identifier: Apache-2.0

// Command chart renders the Helm chart with its default values into the one
// manifest that kubectl can apply and the one that uninstalls, and the rights it
// gives into a table of the documentation. It is a module of its own, so that Helm
// is no dependency of Ocicat.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	dir := flag.String("chart", "../../deploy/charts/ocicat", "`directory` of the chart")
	out := flag.String("o", "../../deploy/ocicat.yaml", "`file` to write")
	uninstall := flag.String("uninstall", "../../deploy/uninstall.yaml", "`file` to write the uninstallation into")
	page := flag.String("rights", "../../docs/security.md", "`page` to write the table of rights into")
	flag.Parse()
	manifest, err := render(*dir, nil)
	if err == nil {
		err = os.WriteFile(*out, []byte(manifest), 0o644)
	}
	if err == nil {
		manifest, err = renderUninstall(*dir)
	}
	if err == nil {
		err = os.WriteFile(*uninstall, []byte(manifest), 0o644)
	}
	if err == nil {
		err = updatePage(*dir, *page)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chart: error:", err)
		os.Exit(1)
	}
}
