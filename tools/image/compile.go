// SPDX-License-Identifier: Apache-2.0

package main

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// file is a program and where it stands in the image.
type file struct{ program, path string }

// references are the CNI reference plugins. They change seldom, so that they
// have a layer of their own, which nodes fetch once.
func references() []file {
	return []file{
		{"bandwidth", "opt/ocicat/bin/bandwidth"},
		{"loopback", "opt/ocicat/bin/loopback"},
		{"portmap", "opt/ocicat/bin/portmap"},
	}
}

// programs are our own.
func programs() []file {
	return []file{
		{"ocicat", "ocicat"},
		{"ocicatd", "ocicatd"},
		{"ocicat-cni", "opt/ocicat/bin/ocicat-cni"},
	}
}

// compile builds all programs for one architecture into dir.
func compile(root, dir, arch string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	// "make build" uses the same flags and thereby the same build cache.
	if err := build(root, arch, dir, "./cmd/ocicat", "./cmd/ocicatd", "./cmd/ocicat-cni"); err != nil {
		return err
	}
	const plugins = "github.com/containernetworking/plugins/plugins/"
	return build(filepath.Join(root, "tools/plugins"), arch, dir, plugins+"meta/portmap", plugins+"meta/bandwidth", plugins+"main/loopback")
}

func build(module, arch, dir string, packages ...string) error {
	args := []string{"build", "-trimpath", "-tags=grpcnotrace", "-buildvcs=auto", "-ldflags=-s -w", "-o", dir + "/"}
	cmd := exec.Command("go", append(args, packages...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// about is what the image says of itself, as the toolchain recorded it in the
// agent.
type about struct {
	version, revision string
	created           time.Time // of the commit
}

func describe(program string) (about, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return about{}, err
	}
	a := about{version: "devel", created: time.Unix(0, 0).UTC()}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		a.version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			a.revision = s.Value
		case "vcs.time":
			if at, err := time.Parse(time.RFC3339, s.Value); err == nil {
				a.created = at.UTC()
			}
		}
	}
	return a, nil
}

// tag is the version in the letters a tag may have.
func (a about) tag() string { return strings.ReplaceAll(a.version, "+", "-") }
