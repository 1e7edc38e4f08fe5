// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// CheckHost tries everything a lab needs of this machine, in namespaces that
// are gone when it returns, and says what is there. What is missing is
// Unsupported, with how to get it.
func CheckHost() ([]string, error) {
	if err := requireRoot("host check"); err != nil {
		return nil, err
	}
	var errs []error
	var have []string
	err := space{}.run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
			return fault.Hint(fault.New(fault.Unsupported, "make namespaces: %w", err),
				"The kernel or the container around this program forbids it: run on the machine itself, or in a container with --privileged.")
		}
		for _, part := range hostParts {
			if err := part.try(); err != nil {
				errs = append(errs, fault.Hint(fault.New(fault.Unsupported, "%s: %w", part.name, err), "%s", part.remedy))
				continue
			}
			have = append(have, part.name)
		}
		return errors.Join(errs...)
	})
	return []string{kernelRelease() + ", " + strings.Join(have, ", ")}, err
}

// hostParts is what a lab needs besides namespaces.
var hostParts = []struct {
	name   string
	try    func() error
	remedy string
}{
	{"veth", func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "check0"}, PeerName: "check1"})
	}, "Load the module (sudo modprobe veth), or boot a kernel with CONFIG_VETH, like Debian's."},
	{"bridge", func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "check2"}})
	}, "Load the module (sudo modprobe bridge), or boot a kernel with CONFIG_BRIDGE, like Debian's."},
	{"mounts", func() error {
		return errors.Join(
			unix.Mount("", "/", "none", unix.MS_SLAVE|unix.MS_REC, ""),
			unix.Mount("sysfs", "/sys", "sysfs", 0, ""),
		)
	}, "The container around this program forbids mounting: run on the machine itself, or in a container with --privileged."},
	{"packet capture", func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}, "Boot a kernel with CONFIG_PACKET, like Debian's."},
}

// kernelRelease is the kernel's name and release.
func kernelRelease() string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "unknown kernel"
	}
	return fmt.Sprintf("%s %s", unix.ByteSliceToString(uts.Sysname[:]), unix.ByteSliceToString(uts.Release[:]))
}
