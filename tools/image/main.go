// SPDX-License-Identifier: Apache-2.0

// Command image builds the container image: for each architecture the agent,
// the command line, the CNI plugin and the reference plugins behind it in the
// chain, static programs in an image that holds nothing else. The same commit
// and toolchain give the same bytes.
//
// It writes an OCI layout of all architectures, and for each an archive that
// "ctr images import", "docker load" and "podman load" take.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// options are what is built, from where to where.
type options struct {
	root, out, name, tag string
	architectures        []string
}

func main() {
	var o options
	var list string
	flag.StringVar(&o.root, "root", "../..", "`directory` of the sources")
	flag.StringVar(&o.out, "o", "../../dist/image", "`directory` to write")
	flag.StringVar(&o.name, "name", "ghcr.io/ocicat-net/ocicat", "the image's name, with registry and without tag")
	flag.StringVar(&o.tag, "tag", "", "its tag; not set: the version of the sources")
	flag.StringVar(&list, "arch", "amd64,arm64", "architectures, joined by commas")
	flag.Parse()
	o.architectures = strings.Split(list, ",")
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "image: error:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	work, err := os.MkdirTemp("", "ocicat-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var built []platformImage
	for _, arch := range o.architectures {
		dir := filepath.Join(work, arch)
		if err := compile(o.root, dir, arch); err != nil {
			return fmt.Errorf("build for %s: %w", arch, err)
		}
		about, err := describe(filepath.Join(dir, "ocicatd"))
		if err != nil {
			return fmt.Errorf("build for %s: %w", arch, err)
		}
		img, err := assemble(dir, arch, about)
		if err != nil {
			return fmt.Errorf("assemble for %s: %w", arch, err)
		}
		built = append(built, platformImage{arch: arch, about: about, image: img})
	}
	if o.tag == "" {
		o.tag = built[0].about.tag()
	}
	return write(o, built)
}
