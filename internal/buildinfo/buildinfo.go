// SPDX-License-Identifier: Apache-2.0

// Package buildinfo says what a program was built from, as the Go toolchain
// recorded it in the binary. Nothing is set at link time.
package buildinfo

import (
	"runtime"
	"runtime/debug"
)

// Info is what a program was built from.
type Info struct {
	Version  string `json:"version"`            // tag, or a pseudo-version; "devel" where git was absent
	Commit   string `json:"commit,omitempty"`   // full git hash
	Date     string `json:"date,omitempty"`     // time of the commit, RFC 3339
	Modified bool   `json:"modified,omitempty"` // built with uncommitted changes
	Go       string `json:"go"`                 // version of the toolchain
	Platform string `json:"platform"`           // GOOS/GOARCH
}

// Read returns what the running program was built from.
func Read() Info {
	info := Info{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	if v := build.Main.Version; v != "" && v != "(devel)" {
		info.Version = v
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Commit = s.Value
		case "vcs.time":
			info.Date = s.Value
		case "vcs.modified":
			info.Modified = s.Value == "true"
		}
	}
	return info
}
