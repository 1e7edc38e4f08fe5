// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// What linux/neighbour.h says of neighbour tables and x/sys/unix does not.
const (
	ndtaName         = 1
	ndtaParms        = 6
	ndtpaIfindex     = 1
	ndtpaProxyDelay  = 13 // milliseconds
	sizeofNdtmsg     = 4
	arpTable         = "arp_cache"
	proxyDelayKey    = "proxy_delay"
	sysctlV4Conf     = "net/ipv4/conf/"
	sysctlV6Conf     = "net/ipv6/conf/"
	sysctlNeigh      = "net/ipv4/neigh/"
	sysctlIPv6       = "net/ipv6/"
	procSys          = "/proc/sys/"
	sysctlRootPrefix = "net/"
)

// devConf4 are the per-device IPv4 settings that netlink reads and writes, by
// their index in IFLA_INET_CONF (IPV4_DEVCONF_* of linux/ip.h).
var devConf4 = map[string]uint16{
	"forwarding":          1,
	"proxy_arp":           3,
	"accept_redirects":    4,
	"secure_redirects":    5,
	"send_redirects":      6,
	"rp_filter":           8,
	"accept_source_route": 9,
	"log_martians":        11,
	"arp_filter":          13,
	"arp_announce":        18,
	"arp_ignore":          19,
	"arp_accept":          21,
	"accept_local":        23,
	"route_localnet":      26,
}

// devConf6 are the per-device IPv6 settings that netlink reads but does not
// write, by their index in IFLA_INET6_CONF (DEVCONF_* of linux/ipv6.h).
var devConf6 = map[string]int{
	"forwarding":       0,
	"accept_ra":        3,
	"accept_redirects": 4,
	"proxy_ndp":        22,
	"disable_ipv6":     26,
	"accept_dad":       27,
}

// Sysctl reads a setting of the namespace by its path below /proc/sys, as
// "net/ipv4/ip_forward"; NotFound without it.
func (h *Handle) Sysctl(setting string) (string, error) {
	var value []byte
	if err := checkSysctl(setting); err != nil {
		return "", err
	}
	err := h.enter(func() (err error) {
		value, err = os.ReadFile(procSys + setting)
		return err
	})
	if err != nil {
		return "", sysctlError("read", setting, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// SetSysctl changes a setting of the namespace by its path below /proc/sys.
// Settings of IPv6 are no business of a kernel that has none: nil.
func (h *Handle) SetSysctl(setting, value string) error {
	return h.setSysctls([]Setting{{setting, value}})
}

// SysctlKey is the key of a setting in errors and status: "sysctl
// net/ipv4/ip_forward".
func SysctlKey(setting string) string { return "sysctl " + setting }

// setSysctls changes settings one by one through /proc/sys, all it can.
func (h *Handle) setSysctls(settings []Setting) error {
	if len(settings) == 0 {
		return nil
	}
	var errs []error
	err := h.enter(func() error {
		for _, s := range settings {
			errs = append(errs, keyed(SysctlKey(s.Path), writeSysctl(h.settings, s)))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// writeSysctl changes a setting of the calling thread's namespace, below dir.
func writeSysctl(dir string, s Setting) error {
	if err := checkSysctl(s.Path); err != nil {
		return err
	}
	f, err := os.OpenFile(dir+s.Path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s.Path, sysctlIPv6) && !hasIPv6() {
		return nil
	}
	if err != nil {
		return sysctlError("set", s.Path, err)
	}
	defer f.Close()
	if _, err := f.WriteString(s.Value); err != nil {
		return sysctlError("set", s.Path, err)
	}
	return nil
}

func hasIPv6() bool {
	_, err := os.Stat(procSys + sysctlIPv6)
	return err == nil
}

func checkSysctl(setting string) error {
	if !strings.HasPrefix(setting, sysctlRootPrefix) || path.Clean(setting) != setting {
		return fault.Hint(fault.New(fault.Invalid, "sysctl %q is not one of the network", setting), "Name it by its path below /proc/sys, as net/ipv4/ip_forward.")
	}
	return nil
}

// sysctlError says what failed without /proc/sys in front of the path twice.
func sysctlError(verb, setting string, err error) error {
	var cause *fs.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return wrap(verb+" sysctl "+setting, err)
}

// deviceSysctl splits the path of a per-device setting below prefix.
func deviceSysctl(setting, prefix string) (dev, key string, ok bool) {
	rest, ok := strings.CutPrefix(setting, prefix)
	if !ok {
		return "", "", false
	}
	dev, key, ok = strings.Cut(rest, "/")
	return dev, key, ok && dev != "all" && dev != "default"
}

// conf4 returns setting as an entry of IFLA_INET_CONF of device dev.
func conf4(dev string, s Setting) (index uint16, value uint32, ok bool) {
	of, key, ok := deviceSysctl(s.Path, sysctlV4Conf)
	index, known := devConf4[key]
	n, err := strconv.ParseUint(s.Value, 10, 32)
	return index, uint32(n), ok && known && of == dev && err == nil
}

// proxyDelay returns setting as the delay of ARP answers on device dev. Only
// 0 has the same meaning in netlink (milliseconds) and /proc (clock ticks).
func proxyDelay(dev string, s Setting) bool {
	of, key, ok := deviceSysctl(s.Path, sysctlNeigh)
	return ok && of == dev && key == proxyDelayKey && s.Value == "0"
}

// deviceSysctls adds messages that change settings of the existing device
// index, and returns those that netlink cannot change.
func (b *batch) deviceSysctls(dev string, index int, settings []Setting) (left []Setting) {
	var delays bool
	conf := map[uint16]uint32{}
	var order []uint16
	for _, s := range settings {
		if i, v, ok := conf4(dev, s); ok {
			if _, twice := conf[i]; !twice {
				order = append(order, i)
			}
			conf[i] = v
		} else if proxyDelay(dev, s) {
			delays = true
		} else {
			left = append(left, s)
		}
	}
	if len(order) > 0 {
		b.add(unix.RTM_SETLINK, 0, "set sysctls "+sysctlV4Conf+dev, ifinfo(index, 0, 0))
		b.nest(unix.IFLA_AF_SPEC, func() {
			b.nest(unix.AF_INET, func() {
				b.nest(unix.IFLA_INET_CONF, func() {
					for _, i := range order {
						b.u32(i, conf[i])
					}
				})
			})
		})
	}
	if delays {
		header := make([]byte, sizeofNdtmsg)
		header[0] = unix.AF_INET
		b.add(unix.RTM_SETNEIGHTBL, 0, "set sysctl "+sysctlNeigh+dev+"/"+proxyDelayKey, header)
		b.str(ndtaName, arpTable)
		b.nest(ndtaParms, func() {
			b.u32(ndtpaIfindex, uint32(index))
			b.u64(ndtpaProxyDelay, 0)
		})
	}
	return left
}
