// SPDX-License-Identifier: Apache-2.0

package kernel_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// TestWriteSettingsBelow writes through a mount of /proc/sys/net made outside
// the namespace, as a container that is not privileged has one: what changes
// is the Handle's namespace, not the mount's.
func TestWriteSettingsBelow(t *testing.T) {
	n := newNode(t)
	const setting = "net/ipv4/conf/all/log_martians"
	outside, err := os.ReadFile("/proc/sys/" + setting)
	if err != nil {
		t.Fatal(err)
	}
	n.SetSysctl(setting, "0")
	dir := t.TempDir()
	mount := filepath.Join(dir, "net")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/sys/net", mount, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	n.kernel.WriteSettingsBelow(dir)
	if err := n.kernel.SetSysctl(setting, "1"); err != nil || n.Sysctl(setting) != "1" {
		t.Errorf("set below %s: %v; it is %s", dir, err, n.Sysctl(setting))
	}
	if now, err := os.ReadFile("/proc/sys/" + setting); err != nil || string(now) != string(outside) {
		t.Errorf("outside the namespace it was %q and is %q, %v", outside, now, err)
	}
	n.kernel.WriteSettingsBelow(t.TempDir())
	if err := n.kernel.SetSysctl(setting, "0"); !fault.Is(err, fault.NotFound) || n.Sysctl(setting) != "1" {
		t.Errorf("set below an empty directory: %v; it is %s", err, n.Sysctl(setting))
	}
}
