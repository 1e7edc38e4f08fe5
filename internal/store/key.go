// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
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
		OcicatConfiguration, NodeStatus, Heartbeat, Election,
	}
}

// Validate says whether every back end can hold an object of this key: nil,
// or an Invalid error that quotes the key. Only affinities have a slash in
// their name, exactly one, and block names are prefixes with "-" for "/".
func (k Key) Validate() error {
	if err := k.problem(); err != nil {
		return fault.New(fault.Invalid, "key %s %q: %w", k.Kind, k.Name, err)
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
	if err := checkText(prefix); err != nil {
		return fault.New(fault.Invalid, "list %s with prefix %q: %w", kind, prefix, err)
	}
	return nil
}

func (k Key) problem() error {
	if !k.Kind.known() {
		return errors.New("unknown kind")
	}
	if k.Name == "" {
		return errors.New("empty name")
	}
	if err := checkText(k.Name); err != nil {
		return err
	}
	switch k.Kind {
	case Block:
		_, err := names.ParseBlock(k.Name)
		return err
	case Affinity:
		_, _, err := names.ParseAffinity(k.Name)
		return err
	case IPAMConfig:
		if k.Name != "default" {
			return errors.New(`the only name is "default"`)
		}
	}
	if strings.Contains(k.Name, "/") {
		return errors.New("slash in name")
	}
	return nil
}

func (k Kind) known() bool {
	return slices.Contains(Kinds(), k)
}

func checkText(name string) error {
	switch {
	case len(name) > MaxName:
		return errors.New("name longer than 512 bytes")
	case !utf8.ValidString(name):
		return errors.New("name is not UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return errors.New("space or control character in name")
	}
	return nil
}
