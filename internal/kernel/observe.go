// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/host"
)

// Observe reads the namespace: every link with its IPv4 addresses, every IPv4
// route of the main table, the permanent neighbours, the per-device settings
// of veth links as far as netlink shows them, and whether IPv4 is forwarded.
func (h *Handle) Observe(ctx context.Context) (host.State, error) {
	seen := host.NewState()
	all, links, err := h.links(ctx)
	if err != nil {
		return seen, err
	}
	seen.Links = links
	devices := names(all)
	routes, err := h.routes(ctx, devices, Filter{})
	if err != nil {
		return seen, err
	}
	seen.Routes = make(map[host.RouteKey]host.Route, len(routes))
	for _, r := range routes {
		if _, shadowed := seen.Routes[r.Key()]; !shadowed { // the first one counts
			seen.Routes[r.Key()] = r
		}
	}
	neighs, err := h.neighbours(ctx, devices, "")
	if err != nil {
		return seen, err
	}
	for _, n := range neighs {
		if n.State == host.Permanent {
			seen.Neighs[n.Key()] = n
		}
	}
	delays, err := h.proxyDelays(ctx)
	if err != nil {
		return seen, err
	}
	for index, l := range all {
		if l.Kind == "veth" {
			l.settings(seen.Sysctls)
			if delay, ok := delays[index]; ok {
				seen.Sysctls[sysctlNeigh+l.Name+"/"+proxyDelayKey] = strconv.FormatUint(delay, 10)
			}
		}
	}
	if seen.Sysctls[core.Forwarding], err = h.Sysctl(core.Forwarding); err != nil {
		return seen, err
	}
	return seen, nil
}

// settings adds the link's settings as the kernel described them.
func (l link) settings(to map[string]string) {
	for key, index := range devConf4 {
		if v := word(l.conf4, int(index)-1); v != "" {
			to[sysctlV4Conf+l.Name+"/"+key] = v
		}
	}
	for key, index := range devConf6 {
		if v := word(l.conf6, index); v != "" {
			to[sysctlV6Conf+l.Name+"/"+key] = v
		}
	}
}

// word is the i-th 32-bit number of an array, "" behind its end.
func word(array []byte, i int) string {
	if i < 0 || len(array) < 4*(i+1) {
		return ""
	}
	return strconv.Itoa(int(int32(binary.NativeEndian.Uint32(array[4*i:]))))
}

// proxyDelays reads the delay of ARP answers by device index, in milliseconds.
func (h *Handle) proxyDelays(ctx context.Context) (map[int]uint64, error) {
	var delays map[int]uint64
	var b batch
	header := make([]byte, sizeofNdtmsg)
	header[0] = unix.AF_INET
	b.add(unix.RTM_GETNEIGHTBL, 0, "list neighbour tables", header)
	err := h.dump(ctx, &b, func() { delays = map[int]uint64{} }, func(r reply) {
		if len(r.payload) < sizeofNdtmsg || text(find(r.payload[sizeofNdtmsg:], ndtaName)) != arpTable {
			return
		}
		parms := find(r.payload[sizeofNdtmsg:], ndtaParms)
		if delay := find(parms, ndtpaProxyDelay); len(delay) == 8 {
			delays[int(number(find(parms, ndtpaIfindex)))] = binary.NativeEndian.Uint64(delay)
		}
	})
	return delays, err
}

// settingDevice is the device a setting is for, "" if it is for none.
func settingDevice(path string) string {
	for _, prefix := range []string{sysctlV4Conf, sysctlV6Conf, sysctlNeigh} {
		if dev, _, ok := deviceSysctl(path, prefix); ok {
			return dev
		}
	}
	return ""
}
