// SPDX-License-Identifier: Apache-2.0

package cniwire

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Bounds of what a request may hold. The specification bounds no container
// id; ours must fit a link alias (255 bytes) and a file name together with
// the interface name.
const (
	MaxContainerID = 200
	maxIfName      = 15 // IFNAMSIZ less its NUL
	maxPath        = 4096
	maxIPs         = 16
	maxPools       = 64
	maxPrev        = 64 // interfaces, and addresses, of a prevResult
	minMTU         = 68 // RFC 791
	maxMTU         = 65535
)

// CheckContainerID says what is wrong with a container id, nil if nothing.
func CheckContainerID(s string) error { return checkName(s, MaxContainerID) }

// CheckNetwork says what is wrong with a network's name, nil if nothing.
func CheckNetwork(s string) error { return checkName(s, MaxContainerID) }

func checkName(s string, limit int) error {
	if s == "" {
		return fault.New(fault.Invalid, "is empty")
	}
	if len(s) > limit {
		return fault.New(fault.Invalid, "has %d bytes, at most %d are possible", len(s), limit)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("_.-", r) }); i >= 0 {
		return fault.New(fault.Invalid, "%q: character %q is none of a-z A-Z 0-9 _ . -", Short(s), first(s[i:]))
	}
	if !alphanumeric(rune(s[0])) {
		return fault.New(fault.Invalid, "%q does not start with a letter or digit", Short(s))
	}
	return nil
}

// CheckIfName says what is wrong with a name for an interface, nil if
// nothing. It is stricter than the specification where the kernel is: "%" is
// a template there, and blanks outside ASCII are refused.
func CheckIfName(s string) error {
	switch {
	case s == "":
		return fault.New(fault.Invalid, "is empty")
	case len(s) > maxIfName:
		return fault.New(fault.Invalid, "%q has %d bytes, at most %d are possible", Short(s), len(s), maxIfName)
	case s == "." || s == "..":
		return fault.New(fault.Invalid, "%q is not a name", s)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%", r) }); i >= 0 {
		return fault.New(fault.Invalid, "%q: character %q is not possible in an interface name", s, first(s[i:]))
	}
	return nil
}

// CheckPod says what is wrong with a pod's names, nil if nothing. They become
// file, handle and interface names.
func (p Pod) CheckPod() error {
	if (p.Namespace == "") != (p.Name == "") {
		return fault.New(fault.Invalid, "pod name %q and namespace %q: want both or neither", Short(p.Name), Short(p.Namespace))
	}
	for _, f := range []struct {
		what, value, extra string
		limit              int
	}{
		{"pod namespace", p.Namespace, "-", 63},
		{"pod name", p.Name, "-.", 253},
		{"pod uid", p.UID, "-._", 128},
	} {
		if len(f.value) > f.limit {
			return fault.New(fault.Invalid, "%s %q has %d bytes, at most %d are possible", f.what, Short(f.value), len(f.value), f.limit)
		}
		bad := func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune(f.extra, r) }
		if i := strings.IndexFunc(f.value, bad); i >= 0 {
			return fault.New(fault.Invalid, "%s %q: character %q is not possible", f.what, Short(f.value), first(f.value[i:]))
		}
	}
	return nil
}

// CheckMAC says what is wrong with a hardware address asked for, nil if
// nothing: six bytes as aa:bb:cc:dd:ee:ff, neither zero nor a group address.
func CheckMAC(s string) error {
	ok := len(s) == 17
	for i := 0; ok && i < len(s); i++ {
		if i%3 == 2 {
			ok = s[i] == ':'
		} else {
			ok = strings.IndexByte("0123456789abcdefABCDEF", s[i]) >= 0
		}
	}
	switch {
	case !ok:
		return fault.New(fault.Invalid, "%q is not a MAC address: want six bytes as 0e:1c:2c:f6:2a:f9", Short(s))
	case s == "00:00:00:00:00:00":
		return fault.New(fault.Invalid, "%q is not usable as a MAC address", s)
	case strings.IndexByte("13579bdfBDF", s[1]) >= 0:
		return fault.New(fault.Invalid, "%q is a group address: the second digit must be even", s)
	}
	return nil
}

// CheckPool says what is wrong with a pool asked for by name or CIDR, nil if
// nothing.
func CheckPool(s string) error {
	bad := func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("-.:/", r) }
	if s == "" || len(s) > 253 || strings.IndexFunc(s, bad) >= 0 {
		return fault.New(fault.Invalid, "pool %q is neither a name nor a CIDR", Short(s))
	}
	return nil
}

// CheckMTU says what is wrong with an MTU asked for, nil if nothing; 0 is
// none asked for.
func CheckMTU(n int) error {
	if n != 0 && (n < minMTU || n > maxMTU) {
		return fault.New(fault.Invalid, "%d is outside %d-%d", n, minMTU, maxMTU)
	}
	return nil
}

// CheckIP says what is wrong with an address asked for by name, nil if
// nothing.
func CheckIP(a netip.Addr) error {
	switch {
	case !a.Is4():
		return fault.New(fault.Unsupported, "%s is not an IPv4 address, and this version attaches with IPv4 only", a)
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast():
		return fault.New(fault.Invalid, "%s is not an address a pod can have", a)
	}
	return nil
}

// Validate says what is wrong with a request, nil if nothing. The server checks
// every request, whatever the plugin checked before.
func (r Request) Validate() error {
	if r.V != Version {
		return fault.Hint(fault.New(fault.Unsupported, "the plugin speaks protocol version %d, the agent version %d", r.V, Version),
			"Install ocicat-cni and ocicatd of the same release on this node.")
	}
	n := 0
	for _, set := range []bool{r.Add != nil, r.Del != nil, r.Check != nil, r.GC != nil, r.Status != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fault.New(fault.Invalid, "request names %d commands, want one", n)
	}
	switch {
	case r.Add != nil:
		return r.Add.check()
	case r.Del != nil:
		return check(r.Del.ID, r.Del.Network, r.Del.NetNSPath)
	case r.Check != nil:
		return r.Check.check()
	case r.GC != nil:
		return r.GC.check()
	}
	return at("network", CheckNetwork(r.Status.Network))
}

func (r *AddRequest) check() error {
	if err := check(r.ID, r.Network, r.NetNSPath); err != nil {
		return err
	}
	if err := r.Pod.CheckPod(); err != nil {
		return err
	}
	if len(r.IPs) > maxIPs || len(r.Pools) > maxPools {
		return fault.New(fault.Invalid, "request names %d addresses and %d pools, at most %d and %d are possible", len(r.IPs), len(r.Pools), maxIPs, maxPools)
	}
	for _, a := range r.IPs {
		if err := CheckIP(a); err != nil {
			return at("ip", err)
		}
	}
	for _, pool := range r.Pools {
		if err := CheckPool(pool); err != nil {
			return err
		}
	}
	if r.MAC != "" {
		if err := CheckMAC(r.MAC); err != nil {
			return at("mac", err)
		}
	}
	if len(r.NodeName) > 253 {
		return fault.New(fault.Invalid, "node name %q has %d bytes, at most 253 are possible", Short(r.NodeName), len(r.NodeName))
	}
	return at("mtu", CheckMTU(r.MTU))
}

func (r *CheckRequest) check() error {
	if err := check(r.ID, r.Network, r.NetNSPath); err != nil {
		return err
	}
	if len(r.Prev.Interfaces) > maxPrev || len(r.Prev.Addresses) > maxPrev {
		return fault.New(fault.Invalid, "prevResult has %d interfaces and %d addresses, at most %d of each are possible", len(r.Prev.Interfaces), len(r.Prev.Addresses), maxPrev)
	}
	return nil
}

func (r *GCRequest) check() error {
	if err := CheckNetwork(r.Network); err != nil {
		return at("network", err)
	}
	for i, id := range r.Valid {
		if err := check(id, r.Network, ""); err != nil {
			return fault.New(fault.Invalid, "valid attachment %d: %w", i, err)
		}
	}
	return nil
}

func check(id ID, network, netns string) error {
	if err := CheckContainerID(id.ContainerID); err != nil {
		return at("container id", err)
	}
	if err := CheckIfName(id.IfName); err != nil {
		return at("interface name", err)
	}
	if len(netns) > maxPath {
		return fault.New(fault.Invalid, "path of the network namespace has %d bytes, at most %d are possible", len(netns), maxPath)
	}
	return at("network", CheckNetwork(network))
}

func at(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %w", what, err)
}

// Short cuts user text so that an error quoting it stays one readable line.
func Short(s string) string {
	const limit = 64
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}

func alphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func first(s string) rune {
	for _, r := range s {
		return r
	}
	return 0
}
