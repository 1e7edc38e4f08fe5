// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

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
	if err := c.removeConflists(log); err != nil {
		return err
	}
	var errs []error
	for _, b := range c.binaries() {
		path := filepath.Join(c.BinDir, b.name)
		errs = append(errs, remove(fresh(path), log))
		if b.shared && !c.ownCopy(path, filepath.Join(c.Source, b.source)) {
			continue
		}
		errs = append(errs, remove(path, log))
	}
	return errors.Join(errs...)
}

// removeConflists removes our configurations, durably: a machine that comes
// up again must not find one whose plugin is gone.
func (c Config) removeConflists(log *slog.Logger) error {
	errs := []error{remove(fresh(filepath.Join(c.NetDir, c.Conflist.File)), log)}
	for _, name := range configurations(c.NetDir) {
		path := filepath.Join(c.NetDir, name)
		if installedByUs(path) || name == c.Conflist.File && callsOurPlugin(path) {
			errs = append(errs, remove(path, log))
		}
	}
	if err := syncDir(c.NetDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fault.New(fault.Unavailable, "uninstall: %w", err))
	}
	return errors.Join(errs...)
}

// ownCopy says whether a shared binary is the one we install and no other
// configuration is there that may need it.
func (c Config) ownCopy(path, source string) bool {
	if len(configurations(c.NetDir)) > 0 {
		return false
	}
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
