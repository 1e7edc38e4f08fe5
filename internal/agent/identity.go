// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// identity says which machine and which boot this is.
type identity struct {
	// Instance is random, made at the first start and kept on disk: it tells a
	// machine from another one that took over its node name.
	Instance string
	// BootID is the kernel's: what lies in /run is of this boot.
	BootID string
}

func readIdentity(stateDir string) (identity, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, fault.New(fault.Internal, "read boot id: %w", err)
	}
	instance, err := readInstance(filepath.Join(stateDir, "instance"))
	return identity{Instance: instance, BootID: strings.TrimSpace(string(boot))}, err
}

func readInstance(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if uid := strings.TrimSpace(string(raw)); err == nil && len(uid) == 32 {
		return uid, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fault.New(fault.Internal, "read instance: %w", err)
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	uid := hex.EncodeToString(b[:])
	if err := replaceFile(path, []byte(uid+"\n")); err != nil {
		return "", fault.New(fault.Internal, "write instance: %w", err)
	}
	return uid, nil
}
