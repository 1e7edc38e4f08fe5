// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/localcopy"
	"github.com/ocicat-net/ocicat/internal/statefile"
)

// identity says which machine and which boot this is.
type identity struct {
	// Instance is random, made at the first start and kept on disk: it tells a
	// machine from another one that took over its node name.
	Instance string
	// BootID is the kernel's: what lies in /run is of this boot.
	BootID string
}

// readIdentity reads who this machine is. An instance that is lost or damaged
// is found again in what an agent of this boot left in runDir, else made anew.
func readIdentity(stateDir, runDir string) (identity, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, fault.New(fault.Internal, "read boot id: %w", err)
	}
	id := identity{BootID: strings.TrimSpace(string(boot))}
	path := filepath.Join(stateDir, "instance")
	raw, err := statefile.Instance.Read(path)
	if uid := strings.TrimSpace(string(raw)); err == nil && isInstance(uid) {
		id.Instance = uid
		return id, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, statefile.ErrDamaged) {
		return id, err
	}
	if id.Instance = leasedInstance(filepath.Join(runDir, "lease"), id.BootID); id.Instance == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
		id.Instance = hex.EncodeToString(b[:])
	}
	if err := statefile.Instance.Write(path, []byte(id.Instance+"\n"), true); err != nil {
		return id, fault.Hint(fault.New(fault.Internal, "write instance: %w", err), "Free space in the state directory, or make it writable: df /var/lib.")
	}
	return id, nil
}

// isInstance says whether uid has the form of an instance: 32 hex digits.
func isInstance(uid string) bool {
	_, err := hex.DecodeString(uid)
	return err == nil && len(uid) == 32
}

// leasedInstance is the instance a lease of this boot was given to, "" for
// none.
func leasedInstance(path, bootID string) string {
	raw, err := statefile.Lease.Read(path)
	if err != nil {
		return ""
	}
	var lease struct {
		InstanceUID string `json:"instanceUID"`
		BootID      string `json:"bootID"`
	}
	if json.Unmarshal(raw, &lease) != nil || lease.BootID != bootID || !isInstance(lease.InstanceUID) {
		return ""
	}
	return lease.InstanceUID
}

// refuseNewer refuses to run on what a newer version left, before anything of
// it is touched: it says more than this version understands.
func refuseNewer(cfg Config) error {
	return errors.Join(
		statefile.Instance.Check(filepath.Join(cfg.StateDir, "instance")),
		statefile.LocalCopy.Check(localcopy.Path(cfg.StateDir)),
		statefile.Lease.Check(filepath.Join(cfg.RunDir, "lease")),
		statefile.Restart.Check(filepath.Join(cfg.RunDir, "gr", "restart.json")),
	)
}
