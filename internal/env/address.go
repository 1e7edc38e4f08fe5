// SPDX-License-Identifier: Apache-2.0

package env

import (
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/uplink"
)

func readIP(e *Env, value string) error {
	switch value {
	case "autodetect":
		e.IP.Autodetect = true
		return nil
	case "none":
		e.IP.None = true
		return nil
	}
	if a, err := netip.ParseAddr(value); err == nil {
		e.IP.Fixed, e.IP.Bare = netip.PrefixFrom(a, a.BitLen()), true
	} else if p, err := netip.ParsePrefix(value); err == nil {
		e.IP.Fixed = p
	}
	if a := e.IP.Fixed.Addr(); !a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		e.IP = uplink.IP{}
		return fault.New(fault.Invalid, "want an IPv4 address such as 192.168.0.11/24, autodetect or none")
	}
	return nil
}

func readMethod(e *Env, value string) (err error) {
	e.Method, err = uplink.ParseMethod(value)
	return err
}
