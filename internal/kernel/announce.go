// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/host"
)

// Announce tells the neighbours on a link that addr has the link's MAC (a
// gratuitous ARP request, RFC 5227 section 3). Linux does so by itself only
// where arp_notify is set; neighbours that know the address by another MAC
// send to that one for up to half a minute.
func (h *Handle) Announce(l host.Link, addr netip.Addr) error {
	fd := -1
	err := h.enter(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err == nil {
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: l.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
		err = unix.Sendto(fd, gratuitousARP(l.MAC, addr), 0, to)
	}
	return wrapNil("announce "+addr.String()+" on "+l.Name, err)
}

// gratuitousARP asks who has addr on behalf of addr itself.
func gratuitousARP(mac host.MAC, addr netip.Addr) []byte {
	p := make([]byte, 0, 28)
	p = binary.BigEndian.AppendUint16(p, unix.ARPHRD_ETHER)
	p = binary.BigEndian.AppendUint16(p, unix.ETH_P_IP)
	p = append(p, 6, 4, 0, 1) // lengths of the addresses, request
	p = append(append(p, mac[:]...), addr.AsSlice()...)
	return append(append(p, 0, 0, 0, 0, 0, 0), addr.AsSlice()...)
}

// networkOrder is v as it lies in memory in network byte order.
func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
