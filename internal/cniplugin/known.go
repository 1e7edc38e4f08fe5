// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"net/netip"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// parsePrev reads CHECK's prevResult. All versions we know have the same names
// for what it takes.
func parsePrev(stdin []byte) (cniwire.Prev, error) {
	var c struct {
		PrevResult *struct {
			Interfaces []netIf `json:"interfaces"`
			IPs        []struct {
				Address string `json:"address"`
			} `json:"ips"`
		} `json:"prevResult"`
	}
	if err := unmarshal(stdin, &c); err != nil {
		return cniwire.Prev{}, err
	}
	if c.PrevResult == nil {
		return cniwire.Prev{}, fault.Hint(invalid("prevResult is missing: CHECK compares with it"),
			"The runtime must hand over what ADD answered.")
	}
	var prev cniwire.Prev
	for _, i := range c.PrevResult.Interfaces {
		prev.Interfaces = append(prev.Interfaces, cniwire.PrevInterface{Name: i.Name, MAC: i.MAC, MTU: i.MTU, InPod: i.Sandbox != ""})
	}
	for i, ip := range c.PrevResult.IPs {
		addr, err := netip.ParsePrefix(ip.Address)
		if err != nil {
			return prev, invalid("prevResult.ips: address %d, %s, is not an address with its mask", i, quote(ip.Address))
		}
		prev.Addresses = append(prev.Addresses, addr)
	}
	return prev, nil
}

// Keys of the list of attachments that a GC keeps. The first is the
// specification's, the second what libcni 1.2.0 sent instead.
const (
	validKey    = "cni.dev/valid-attachments"
	oldValidKey = "cni.dev/attachments"
)

// parseValid reads which attachments a GC keeps. No list is an error, for it
// would mean that everything goes; null is an empty list, as libcni sends it.
func parseValid(stdin []byte) ([]cniwire.ID, error) {
	var c map[string]json.RawMessage
	if err := unmarshal(stdin, &c); err != nil {
		return nil, err
	}
	list, ok := c[validKey]
	if !ok {
		list, ok = c[oldValidKey]
	}
	if !ok {
		return nil, fault.Hint(invalid("%s is missing: GC must know what stays", validKey),
			`To say that nothing stays, write "%s": [].`, validKey)
	}
	var stay []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	if err := json.Unmarshal(list, &stay); err != nil {
		return nil, fault.Hint(decodeError("configuration: %s: %w", validKey, err),
			`Write it as [{"containerID": "ID", "ifname": "eth0"}].`)
	}
	valid := make([]cniwire.ID, len(stay))
	for i, s := range stay {
		valid[i] = cniwire.ID{ContainerID: s.ContainerID, IfName: s.IfName}
	}
	return valid, nil
}
