// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Uninstall takes away what an Installer of this Config put on the host:
// first the configuration, so that no runtime calls a plugin that is gone,
// then the binaries. What is gone already is no error; what others installed
// stays. A loopback plugin stays while another configuration needs one.
func Uninstall(c Config, log *slog.Logger) error {
	if err := c.Validate(); err != nil {
		return err
	}
	conflists, binaries := c.leftovers()
	if err := c.removeConflists(conflists, log); err != nil {
		return err
	}
	var errs []error
	for _, path := range binaries {
		errs = append(errs, remove(path, log))
	}
	return errors.Join(errs...)
}

// Leftovers are the files that Uninstall removes, in its order.
func Leftovers(c Config) ([]string, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	conflists, binaries := c.leftovers()
	return slices.DeleteFunc(slices.Concat(conflists, binaries), func(path string) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	}), nil
}

// leftovers are the files of ours that are there or may be half made.
func (c Config) leftovers() (conflists, binaries []string) {
	conflists = []string{fresh(filepath.Join(c.NetDir, c.Conflist.File))}
	others := 0
	for _, name := range configurations(c.NetDir) {
		path := filepath.Join(c.NetDir, name)
		if installedByUs(path) || name == c.Conflist.File && callsOurPlugin(path) {
			conflists = append(conflists, path)
		} else {
			others++
		}
	}
	for _, b := range c.binaries() {
		path := filepath.Join(c.BinDir, b.name)
		binaries = append(binaries, fresh(path))
		if !b.shared || others == 0 && sameFile(path, filepath.Join(c.Source, b.source)) {
			binaries = append(binaries, path)
		}
	}
	return conflists, binaries
}

// removeConflists removes our configurations, durably: a machine that comes
// up again must not find one whose plugin is gone.
func (c Config) removeConflists(paths []string, log *slog.Logger) error {
	var errs []error
	for _, path := range paths {
		errs = append(errs, remove(path, log))
	}
	if err := syncDir(c.NetDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fault.New(fault.Unavailable, "uninstall: %w", err))
	}
	return errors.Join(errs...)
}

// sameFile says whether a shared binary is the one we install.
func sameFile(path, source string) bool {
	file, err := os.Open(source)
	if err != nil {
		return false
	}
	defer file.Close()
	return equal(path, file)
}

func remove(path string, log *slog.Logger) error {
	err := os.Remove(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fault.New(fault.Unavailable, "uninstall: %w", err)
	}
	log.Info("removed", "file", path)
	return nil
}
