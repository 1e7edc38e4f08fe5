// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// register is where a condition's value is loaded to be compared; conditions
// follow each other, so one is enough.
const register = unix.NFT_REG_1

// Places of the fields we compare, in bytes.
const (
	offsetSource      = 12 // IPv4 header, RFC 791
	offsetDestination = 16
	offsetPort        = 2 // TCP and UDP header: destination port
)

var hooks = map[host.Hook]*nftables.ChainHook{
	host.Prerouting:  nftables.ChainHookPrerouting,
	host.Input:       nftables.ChainHookInput,
	host.Postrouting: nftables.ChainHookPostrouting,
}

var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}

// compile puts a table into the kernel's terms. What it cannot express is an
// error rather than a rule that drops more.
func compile(t host.Table) ([]chain, error) {
	var chains []chain
	for _, c := range t.Chains {
		hook := hooks[c.Hook]
		if hook == nil {
			return nil, fault.New(fault.Internal, "chain %s: hook %q is unknown", c.Name, c.Hook)
		}
		policy := nftables.ChainPolicyAccept
		compiled := chain{Chain: nftables.Chain{
			Name: c.Name, Type: nftables.ChainType(c.Type()), Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority)), Policy: &policy,
		}}
		for _, d := range c.Drops {
			exprs, err := conditions(d)
			if err != nil {
				return nil, fault.New(fault.Internal, "chain %s: rule %q: %w", c.Name, d, err)
			}
			compiled.rules = append(compiled.rules, rule(d.Why, append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})))
		}
		for _, m := range c.Masquerades {
			if !slices.ContainsFunc(t.Sets, func(s host.Set) bool { return s.Name == m.From }) || !slices.ContainsFunc(t.Sets, func(s host.Set) bool { return s.Name == m.Except }) {
				return nil, fault.New(fault.Internal, "chain %s: rule %q: no such set", c.Name, m)
			}
			compiled.rules = append(compiled.rules, rule(m.Why, masquerade(m)))
		}
		chains = append(chains, compiled)
	}
	return chains, nil
}

// rule is a rule with its comment, if it has one.
func rule(why string, exprs []expr.Any) nftables.Rule {
	r := nftables.Rule{Exprs: exprs}
	if why != "" {
		r.UserData = userdata.AppendString(nil, userdata.TypeComment, why)
	}
	return r
}

// masquerade is a rule of a nat chain.
func masquerade(m host.Masquerade) []expr.Any {
	return []expr.Any{
		meta(expr.MetaKeyNFPROTO), equal(unix.NFPROTO_IPV4),
		payload(expr.PayloadBaseNetworkHeader, offsetSource, 4), &expr.Lookup{SourceRegister: register, SetName: m.From},
		payload(expr.PayloadBaseNetworkHeader, offsetDestination, 4), &expr.Lookup{SourceRegister: register, SetName: m.Except, Invert: true},
		&expr.Masq{FullyRandom: true},
	}
}

// conditions are what a rule compares, each as nft itself would write it, so
// that nft lists them as host prints them.
func conditions(d host.Drop) ([]expr.Any, error) {
	var list []expr.Any
	if d.In != "" {
		list = append(list, meta(expr.MetaKeyIIFNAME), equal([]byte(d.In)...))
	}
	for _, a := range []struct {
		prefix netip.Prefix
		offset uint32
	}{{d.Src, offsetSource}, {d.Dst, offsetDestination}} {
		if !a.prefix.IsValid() {
			continue
		}
		if !a.prefix.Addr().Is4() || a.prefix.Bits()%8 != 0 || a.prefix.Bits() == 0 {
			return nil, fault.New(fault.Internal, "%s is not IPv4 of whole bytes", a.prefix)
		}
		size := a.prefix.Bits() / 8
		list = append(list, meta(expr.MetaKeyNFPROTO), equal(unix.NFPROTO_IPV4),
			payload(expr.PayloadBaseNetworkHeader, a.offset, size), equal(a.prefix.Addr().AsSlice()[:size]...))
	}
	if d.Proto != "" {
		number, known := protocols[d.Proto]
		if !known {
			return nil, fault.New(fault.Internal, "protocol %q is unknown", d.Proto)
		}
		list = append(list, meta(expr.MetaKeyL4PROTO), equal(number),
			payload(expr.PayloadBaseTransportHeader, offsetPort, 2), equal(binary.BigEndian.AppendUint16(nil, d.Port)...))
	}
	if d.NoReturn {
		list = append(list, &expr.Fib{Register: register, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true}, equal(0, 0, 0, 0))
	}
	return list, nil
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: register} }

func payload(base expr.PayloadBase, offset uint32, size int) expr.Any {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: uint32(size)}
}

func equal(value ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: value}
}
