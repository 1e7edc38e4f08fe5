// SPDX-License-Identifier: Apache-2.0

package store

import (
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// MaxName is the longest name in bytes every back end can hold: a node name
// of 253, a slash, and the longest block name.
const MaxName = 512

// MaxValue is the largest value in bytes every back end can hold: etcd
// refuses requests above 1.5 MiB, this leaves room for key and framing.
const MaxValue = 1400 << 10

// Kinds returns every kind, in the order they are documented.
func Kinds() []Kind {
	return []Kind{
		IPPool, IPReservation, BGPConfiguration, BGPPeer, Node,
		Block, Affinity, Handle, IPAMConfig,
		OcicatConfiguration, NodeStatus, Heartbeat,
	}
}

// Validate says whether every back end can hold an object of this key: nil,
// or an Invalid error that quotes the key. Only affinities have a slash in
// their name, exactly one, and block names are prefixes with "-" for "/".
func (k Key) Validate() error {
	if problem := k.problem(); problem != "" {
		return fault.New(fault.Invalid, "key %s %q: %s", k.Kind, k.Name, problem)
	}
	return nil
}

// CheckPut says whether every back end can hold value under key: nil or an
// Invalid error.
func CheckPut(key Key, value []byte) error {
	if err := key.Validate(); err != nil {
		return err
	}
	if len(value) > MaxValue {
		return fault.New(fault.Invalid, "put %s: value of %d bytes, at most %d fit", key, len(value), MaxValue)
	}
	return nil
}

// CheckList says whether kind exists and prefix can start a name: nil or an
// Invalid error.
func CheckList(kind Kind, prefix string) error {
	if !kind.known() {
		return fault.New(fault.Invalid, "list %s: unknown kind", kind)
	}
	if problem := textProblem(prefix); problem != "" {
		return fault.New(fault.Invalid, "list %s with prefix %q: %s", kind, prefix, problem)
	}
	return nil
}

func (k Key) problem() string {
	if !k.Kind.known() {
		return "unknown kind"
	}
	if k.Name == "" {
		return "empty name"
	}
	if problem := textProblem(k.Name); problem != "" {
		return problem
	}
	switch k.Kind {
	case Block:
		return blockProblem(k.Name)
	case Affinity:
		node, block, ok := strings.Cut(k.Name, "/")
		if !ok || node == "" {
			return "want node/block"
		}
		return blockProblem(block)
	case IPAMConfig:
		if k.Name != "default" {
			return `the only name is "default"`
		}
	}
	if strings.Contains(k.Name, "/") {
		return "slash in name"
	}
	return ""
}

func (k Kind) known() bool {
	for _, known := range Kinds() {
		if k == known {
			return true
		}
	}
	return false
}

func textProblem(name string) string {
	switch {
	case len(name) > MaxName:
		return "name longer than 512 bytes"
	case !utf8.ValidString(name):
		return "name is not UTF-8"
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return "space or control character in name"
	}
	return ""
}

// blockProblem checks the form "172.16.109.64-26".
func blockProblem(name string) string {
	at := strings.LastIndexByte(name, '-')
	if at < 0 || strings.Contains(name, "/") {
		return `want a prefix with "-" for "/", as 10.0.0.0-26`
	}
	if _, err := netip.ParsePrefix(name[:at] + "/" + name[at+1:]); err != nil {
		return `want a prefix with "-" for "/", as 10.0.0.0-26`
	}
	return ""
}
