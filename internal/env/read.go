// SPDX-License-Identifier: Apache-2.0

package env

import (
	"log/slog"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// laterEncap is the pointer of refused encapsulations.
const laterEncap = "Encapsulation comes with its own issue; plain BGP needs all nodes on one layer-2 network. Set it to Never."

// readBool reads Calico's words for yes and no. Calico takes every other word
// for yes; here it is an error.
func readBool(value string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "true", "t", "yes", "y", "1":
		return true, nil
	case "false", "f", "no", "n", "0":
		return false, nil
	}
	return false, fault.New(fault.Invalid, "want true or false")
}

func readFlag(field func(*Env) *bool) func(*Env, string) error {
	return func(e *Env, value string) (err error) {
		*field(e), err = readBool(value)
		return err
	}
}

// readMode reads a mode of encapsulation in any letter case, and "off".
func readMode(field func(*v3.IPPoolSpec) *string) func(*Env, string) error {
	return func(e *Env, value string) error {
		modes := map[string]string{
			"never": v3.Never, "off": v3.Never, "always": v3.Always,
			"crosssubnet": v3.CrossSubnet, "cross-subnet": v3.CrossSubnet,
		}
		mode, known := modes[strings.ToLower(value)]
		switch {
		case !known:
			return fault.New(fault.Invalid, "want Never, Always or CrossSubnet")
		case mode != v3.Never:
			return fault.Hint(fault.New(fault.Unsupported, "not supported yet: want Never"), "%s", laterEncap)
		}
		*field(&e.pool) = mode
		return nil
	}
}

func readPoolCIDR(e *Env, value string) error {
	if value == "none" {
		e.noPool4 = true
		return nil
	}
	if p, err := netip.ParsePrefix(value); err == nil && p.Addr().Is6() {
		return fault.New(fault.Invalid, "want an IPv4 CIDR")
	}
	e.pool.CIDR = value
	return nil
}

func readBlockSize(e *Env, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return fault.New(fault.Invalid, "want a prefix length from 20 to 32")
	}
	e.pool.BlockSize = n
	return nil
}

func readEndpoints(e *Env, value string) error {
	e.EtcdEndpoints = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
	if len(e.EtcdEndpoints) == 0 {
		return fault.New(fault.Invalid, "want URLs joined by commas, as http://192.0.2.1:2379")
	}
	for _, endpoint := range e.EtcdEndpoints {
		scheme, rest, ok := strings.Cut(endpoint, "://")
		switch {
		case !ok || rest == "":
			return fault.New(fault.Invalid, "want URLs joined by commas, as http://192.0.2.1:2379")
		case scheme != "https" && scheme != "http" && scheme != "unix":
			return fault.New(fault.Invalid, "want https://, http:// or unix:// in front of %q", endpoint)
		}
	}
	return nil
}

func readDatastore(e *Env, value string) error {
	if value != "etcdv3" && value != "kubernetes" {
		return fault.New(fault.Invalid, "want etcdv3 or kubernetes")
	}
	e.Kubernetes = value == "kubernetes"
	return nil
}

func readAS(e *Env, value string) error {
	var as v3.ASNumber
	if err := as.UnmarshalText([]byte(value)); err != nil {
		return fault.New(fault.Invalid, "%v", err)
	}
	c := v3.BGPConfiguration{Metadata: meta.Object{Name: "default"}, Spec: v3.BGPConfigurationSpec{ASNumber: &as}}
	for _, f := range c.Validate() {
		return fault.Hint(fault.New(fault.Invalid, "want %s", f.Want), "%s", f.Hint)
	}
	e.AS = &as
	return nil
}

func readRouterID(e *Env, value string) error {
	if value == "hash" {
		e.routerIDHash = true
		return nil
	}
	a, err := netip.ParseAddr(value)
	if err != nil || !a.Is4() || a.IsUnspecified() {
		return fault.New(fault.Invalid, "want an IPv4 address, or hash")
	}
	e.RouterID = a
	return nil
}

func readBackend(_ *Env, value string) error {
	switch value {
	case "bird":
		return nil
	case "vxlan", "none":
		return fault.Hint(fault.New(fault.Unsupported, "not supported yet: want bird"), "Routes are learned by BGP; a cluster without it comes with the encapsulation issue.")
	}
	return fault.New(fault.Invalid, "want bird")
}

var prefixForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,3}$`)

// readInterfacePrefix takes the first of several prefixes. A name has 15
// characters, 11 of them behind the prefix.
func readInterfacePrefix(e *Env, value string) error {
	first, _, _ := strings.Cut(value, ",")
	if !prefixForm.MatchString(first) {
		return fault.New(fault.Invalid, "want one to four lower-case letters or digits, as cali")
	}
	e.InterfacePrefix = first
	return nil
}

func readLogLevel(e *Env, value string) error {
	levels := map[string]slog.Level{
		"trace": slog.LevelDebug, "debug": slog.LevelDebug, "info": slog.LevelInfo,
		"warning": slog.LevelWarn, "warn": slog.LevelWarn, "error": slog.LevelError, "fatal": slog.LevelError,
	}
	level, known := levels[strings.ToLower(value)]
	if !known {
		return fault.New(fault.Invalid, "want Debug, Info, Warning or Error")
	}
	e.LogLevel = level
	return nil
}

func readNothing(*Env, string) error { return nil }

func readMetricsEnabled(e *Env, value string) error {
	enabled, err := readBool(value)
	e.noMetrics = !enabled
	return err
}

// readHost reads an address and no name: what a name stands for must not
// decide who reaches a door.
func readHost(door func(*Env) *netip.AddrPort) func(*Env, string) error {
	return func(e *Env, value string) error {
		if strings.EqualFold(value, "localhost") {
			value = "127.0.0.1"
		}
		addr, err := netip.ParseAddr(value)
		if err != nil {
			return fault.New(fault.Invalid, "want an IP address, as 127.0.0.1")
		}
		*door(e) = netip.AddrPortFrom(addr, door(e).Port())
		return nil
	}
}

func readPort(door func(*Env) *netip.AddrPort) func(*Env, string) error {
	return func(e *Env, value string) error {
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil || port == 0 {
			return fault.New(fault.Invalid, "want a port, 1 to 65535")
		}
		*door(e) = netip.AddrPortFrom(door(e).Addr(), uint16(port))
		return nil
	}
}

func readManageCNI(e *Env, value string) error {
	manage, err := readBool(value)
	e.CNI.Unused = !manage
	return err
}

func readConfName(e *Env, value string) error {
	if strings.Contains(value, "/") || strings.HasPrefix(value, ".") || !strings.HasSuffix(value, ".conflist") {
		return fault.New(fault.Invalid, "want the name of a file that ends in .conflist, as 10-ocicat.conflist")
	}
	e.CNI.File = value
	return nil
}

func readMTU(e *Env, value string) error {
	mtu, err := strconv.Atoi(value)
	if err != nil || mtu != 0 && (mtu < 576 || mtu > 65535) {
		return fault.New(fault.Invalid, "want 0, or 576 to 65535")
	}
	e.CNI.MTU = mtu
	return nil
}

func readSkipped(e *Env, value string) error {
	e.CNI.Skip = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
	return nil
}
