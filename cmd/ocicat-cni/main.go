// SPDX-License-Identifier: Apache-2.0

// Command ocicat-cni is the CNI plugin: container runtimes execute it to
// attach a pod to the network and to detach it. What it does is in package
// cniplugin.
package main

import (
	"os"

	"github.com/ocicat-net/ocicat/internal/cniplugin"
)

func main() {
	os.Exit(cniplugin.Run(cniplugin.Runtime{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout}))
}
