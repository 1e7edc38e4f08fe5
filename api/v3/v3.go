// SPDX-License-Identifier: Apache-2.0

// Package v3 holds the resources users write, in the shapes of Calico's group
// projectcalico.org/v3: types, defaults and validation. Nothing is added to
// Calico's fields; settings of our own are in package v1. All functions are
// pure: what an object means for a node is decided elsewhere.
package v3

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
)

// APIVersion is the group and version of every kind here.
const APIVersion = "projectcalico.org/v3"

// ASNumber is an autonomous system number of four bytes. It is written as a
// number; in text also as two halves, "1.10" (RFC 5396 asdot).
type ASNumber uint32

// UnmarshalText reads a plain number or two halves joined by a dot.
func (a *ASNumber) UnmarshalText(text []byte) error {
	high, low, dotted := strings.Cut(string(text), ".")
	if !dotted {
		n, err := strconv.ParseUint(high, 10, 32)
		if err != nil {
			return fmt.Errorf("want a number from 1 to 4294967295")
		}
		*a = ASNumber(n)
		return nil
	}
	h, err := strconv.ParseUint(high, 10, 16)
	if err != nil {
		return fmt.Errorf("want two numbers from 0 to 65535 joined by a dot")
	}
	l, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return fmt.Errorf("want two numbers from 0 to 65535 joined by a dot")
	}
	*a = ASNumber(h<<16 | l)
	return nil
}

// UnmarshalJSON reads a JSON number or a string in one of the forms of
// UnmarshalText.
func (a *ASNumber) UnmarshalJSON(data []byte) error {
	text := string(data)
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	}
	return a.UnmarshalText([]byte(text))
}

// MarshalJSON writes a plain number.
func (a ASNumber) MarshalJSON() ([]byte, error) {
	return strconv.AppendUint(nil, uint64(a), 10), nil
}

// checkAS refuses the numbers no speaker may use as its own: 0 (RFC 7607),
// 23456 (RFC 6793), 65535 and 4294967295 (RFC 7300).
func checkAS(path string, as ASNumber) []meta.Finding {
	switch as {
	case 0, 23456, 65535, 4294967295:
		return []meta.Finding{{
			Path: path, Value: strconv.FormatUint(uint64(as), 10),
			Want: "an AS number that is not reserved",
			Hint: "Private numbers are 64512 to 65534 and 4200000000 to 4294967294; 64512 is the default.",
		}}
	}
	return nil
}

// checkEnum refuses a value outside allowed; "" is always right, for it means
// the default.
func checkEnum(path, value string, allowed ...string) []meta.Finding {
	if value == "" || slices.Contains(allowed, value) {
		return nil
	}
	return []meta.Finding{{
		Path: path, Value: value,
		Want: oneOf(allowed), Hint: meta.DidYouMean(value, allowed),
	}}
}

func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// checkPrefix reads a CIDR whose host bits are zero.
func checkPrefix(path, value string) (netip.Prefix, []meta.Finding) {
	fail := func(want, hint string) (netip.Prefix, []meta.Finding) {
		return netip.Prefix{}, []meta.Finding{{Path: path, Value: value, Want: want, Hint: hint}}
	}
	if value == "" {
		return fail("a CIDR", "Write it as 10.244.0.0/16.")
	}
	p, err := netip.ParsePrefix(value)
	if err != nil {
		if a, err := netip.ParseAddr(value); err == nil && a.Zone() == "" {
			return fail(fmt.Sprintf("a CIDR such as %s/%d", a, a.BitLen()), "")
		}
		return fail("a CIDR such as 10.244.0.0/16", "")
	}
	if p.Addr().Is4In6() {
		return fail("an IPv4 CIDR in its own notation, not mapped into IPv6", "")
	}
	if p != p.Masked() {
		return fail("a CIDR without host bits: "+p.Masked().String(), "")
	}
	return p, nil
}

// checkIP reads one address without a zone.
func checkIP(path, value string) (netip.Addr, []meta.Finding) {
	a, err := netip.ParseAddr(value)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() {
		return netip.Addr{}, []meta.Finding{{Path: path, Value: value, Want: "an IP address"}}
	}
	return a, nil
}

// unsupported is the finding for a field that this version cannot honour.
func unsupported(path, value, want, pointer string) meta.Finding {
	return meta.Finding{Path: path, Value: value, Want: want, Hint: pointer, Level: meta.Unsupported}
}

// notice is the finding for a field that is kept without effect.
func notice(path, value, instead, hint string) meta.Finding {
	return meta.Finding{Path: path, Value: value, Want: instead, Hint: hint, Level: meta.Notice}
}

// The pointers say where a refused feature stands.
const (
	withBGP   = "It comes with the BGP issue (reflection, policy, selectors)."
	withEncap = "It comes with the encapsulation issue; plain BGP needs all nodes on one layer-2 network."
)
