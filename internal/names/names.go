// SPDX-License-Identifier: Apache-2.0

// Package names makes every name that the kernel or the datastore sees: host
// interfaces, blocks, affinities, handles, router ids, and the order in which
// a node looks for a block. All of it is Calico's, so that both can share a
// cluster. The keys of etcd belong to store/etcdpath.
package names

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"iter"
	"math/big"
	"math/rand"
	"net/netip"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cidr"
)

// DefaultPrefix is the interface prefix where none is configured.
const DefaultPrefix = "cali"

// suffixLen is the number of hex digits behind the prefix: with a prefix of
// four letters the name just fits IFNAMSIZ (15 bytes and a zero).
const suffixLen = 11

// MaxPrefixLen is the length of the longest interface prefix in bytes.
const MaxPrefixLen = 15 - suffixLen

// HostInterface is the name of the host's end of a pod's pair: prefix and the
// first eleven hex digits of SHA-1("namespace.pod").
func HostInterface(prefix, namespace, pod string) string {
	sum := sha1.Sum([]byte(namespace + "." + pod))
	return prefix + hex.EncodeToString(sum[:])[:suffixLen]
}

// ContainerInterface is the host interface of a container outside
// Kubernetes: prefix and the first eleven characters of its id, or all of a
// shorter one.
func ContainerInterface(prefix, containerID string) string {
	return prefix + containerID[:min(len(containerID), suffixLen)]
}

// WorkloadEndpoint is the name Calico gives a pod's endpoint resource; a dash
// inside a part is doubled so that the parts can be told apart.
func WorkloadEndpoint(node, pod, ifName string) string {
	escape := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return escape(node) + "-k8s-" + escape(pod) + "-" + escape(ifName)
}

// Handle is the IPAM handle of a container attached to a CNI network.
func Handle(network, containerID string) string { return network + "." + containerID }

// IPIPTunnelHandle is the IPAM handle of a node's IPIP tunnel address.
func IPIPTunnelHandle(node string) string { return "ipip-tunnel-addr-" + node }

// VXLANTunnelHandle is the IPAM handle of a node's VXLAN tunnel address; v6
// says which family's.
func VXLANTunnelHandle(node string, v6 bool) string {
	if v6 {
		return "vxlan-v6-tunnel-addr-" + node
	}
	return "vxlan-tunnel-addr-" + node
}

// WireGuardTunnelHandle is the IPAM handle of a node's WireGuard address.
func WireGuardTunnelHandle(node string) string { return "wireguard-tunnel-addr-" + node }

// reservePrefix starts the handles of reserves. A container's handle can only
// equal one if its CNI network is called "ocicat-reserve".
const reservePrefix = "ocicat-reserve."

// ReserveHandle is the IPAM handle of the addresses an agent holds ready for
// pods; uid is the node's instance UID.
func ReserveHandle(uid string) string { return reservePrefix + strings.ToLower(uid) }

// ParseReserveHandle is the inverse of ReserveHandle; ok is false for the
// handle of anything else.
func ParseReserveHandle(handle string) (uid string, ok bool) {
	return strings.CutPrefix(handle, reservePrefix)
}

// Block is a block's name in the datastore: its CIDR with "-" for "/".
func Block(block netip.Prefix) string { return strings.ReplaceAll(block.String(), "/", "-") }

// ParseBlock is the inverse of Block: another way to write the same CIDR is no
// block's name.
func ParseBlock(name string) (netip.Prefix, error) {
	at := strings.LastIndexByte(name, '-')
	if at < 0 {
		return netip.Prefix{}, fmt.Errorf("block name %q has no prefix length", name)
	}
	p, err := cidr.Parse(name[:at] + "/" + name[at+1:])
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("block name %q: %w", name, err)
	}
	if right := Block(p); name != right {
		return netip.Prefix{}, fmt.Errorf("block name %q is written %s", name, right)
	}
	return p, nil
}

// Affinity is the name of a node's affinity to a block: node "/" block name.
func Affinity(node string, block netip.Prefix) string { return node + "/" + Block(block) }

// ParseAffinity is the inverse of Affinity.
func ParseAffinity(name string) (node string, block netip.Prefix, err error) {
	node, rest, ok := strings.Cut(name, "/")
	if !ok || node == "" {
		return "", netip.Prefix{}, fmt.Errorf("affinity name %q is not node/block", name)
	}
	if block, err = ParseBlock(rest); err != nil {
		return "", netip.Prefix{}, fmt.Errorf("affinity name %q: %w", name, err)
	}
	return node, block, nil
}

// FirstBlock is the index of the block of pool that node tries first: the
// node's name hashed by FNV-1 (32 bit) seeds Go's math/rand, which draws from
// the number of blocks. It is 0 where pool has no block of that length.
func FirstBlock(node string, pool netip.Prefix, blockBits int) *big.Int {
	count := cidr.Blocks(pool, blockBits)
	if count.Sign() == 0 {
		return count
	}
	h := fnv.New32()
	_, _ = h.Write([]byte(node)) // a hash never fails
	return new(big.Int).Rand(rand.New(rand.NewSource(int64(h.Sum32()))), count)
}

// BlockOrder yields the blocks of pool in the order in which node tries them:
// from FirstBlock upward, wrapping round at the end, each block once.
func BlockOrder(node string, pool netip.Prefix, blockBits int) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		one, count := big.NewInt(1), cidr.Blocks(pool, blockBits)
		first := FirstBlock(node, pool, blockBits)
		n := new(big.Int).Set(first)
		for left := new(big.Int).Set(count); left.Sign() > 0; left.Sub(left, one) {
			if !yield(cidr.BlockAt(pool, blockBits, n)) {
				return
			}
			if n.Add(n, one).Cmp(count) == 0 {
				n.SetInt64(0)
			}
		}
	}
}

// RouterIDHash is the router id of a node without an IPv4 address: the first
// four bytes of SHA-256 of its name, moved down out of class D and E.
func RouterIDHash(node string) netip.Addr {
	sum := sha256.Sum256([]byte(node))
	id := [4]byte(sum[:4])
	if id[0] > 223 {
		id[0] -= 32
	}
	return netip.AddrFrom4(id)
}
