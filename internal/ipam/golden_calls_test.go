// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/alloc"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// arguments are all arguments that recorded operations have.
type arguments struct {
	Name, Handle, Host, IP, CIDR string
	Block                        string
	IntendedUse                  Use
	Attrs, Labels                map[string]string
	NamespaceLabels              map[string]string
	ReservedCIDRs                []string
	Num4, Num6                   int
	IPv4Pools, IPv6Pools         []string
	MaxBlocksPerHost             int
	MaxPerHandle                 int `json:"maxAllocToHandlePerIPVersion"`
	MustBeEmpty                  bool
	Pools                        []string
	Spec                         json.RawMessage
	IPs                          []struct{ Address, Handle, SequenceNumber string }
	StrictAffinity               bool
	AutoAllocateBlocks           bool
	IPCooldownSeconds            int
	// HostReservedAttrIPv4s is what a Windows node keeps of each block.
	HostReservedAttrIPv4s json.RawMessage
}

// foreign reports whether only another kind of node asks that.
func (a arguments) foreign() bool {
	return len(a.HostReservedAttrIPv4s) > 0 && string(a.HostReservedAttrIPv4s) != "null" || a.Host == "load-balancer"
}

// call runs a recorded operation. The result has the shape that recorded
// gives the recording's; known is false for operations there are not.
func (r *replay) call(st step) (result any, err error, known bool) {
	var a arguments
	if err := json.Unmarshal(st.Args, &a); err != nil {
		r.t.Fatalf("step %d: %v", st.N, err)
	}
	if a.foreign() {
		return nil, nil, false
	}
	c, ctx := r.client, r.ctx
	switch st.Op {
	case "CreateIPPool", "UpdateIPPool", "DeleteIPPool", "CreateNode", "UpdateNode", "DeleteNode", "CreateIPReservation":
		err = r.resource(st, a)
		if err == nil && st.Error != nil {
			err = errRefused // the recorder's own refusal: resources are checked elsewhere
		}
	case "EditStore":
		r.apply(st)
		r.force()
	case "AutoAssign":
		result, err = r.autoAssign(a)
	case "AssignIP":
		err = c.AssignIP(ctx, AssignIPRequest{Node: a.Host, Addr: parseAddr(a.IP), Handle: a.Handle, Attrs: a.Attrs, Use: a.IntendedUse})
	case "ReleaseIPs":
		result, err = r.releaseIPs(a)
	case "ReleaseByHandle":
		err = c.ReleaseByHandle(ctx, a.Handle)
	case "IPsByHandle":
		var ips []netip.Addr
		ips, err = c.IPsByHandle(ctx, a.Handle)
		result = sorted(ips)
	case "GetAssignmentAttributes":
		var who alloc.Attribute
		if who, err = c.Holder(ctx, parseAddr(a.IP)); err == nil {
			result = holder{who.Handle, who.Secondary}
		}
	case "ClaimAffinity":
		var claimed, failed []netip.Prefix
		claimed, failed, err = c.ClaimAffinity(ctx, a.Host, netip.MustParsePrefix(a.CIDR))
		result = [2][]string{texts(claimed), texts(failed)}
	case "ReleaseAffinity":
		err = c.ReleaseAffinity(ctx, a.Host, netip.MustParsePrefix(a.CIDR), a.MustBeEmpty)
	case "ReleaseHostAffinities":
		err = c.ReleaseHostAffinities(ctx, a.Host, a.MustBeEmpty)
	case "ReleasePoolAffinities":
		err = c.ReleasePoolAffinities(ctx, netip.MustParsePrefix(a.CIDR))
	case "GarbageCollectColdIPs":
		err = c.Thaw(ctx, netip.MustParsePrefix(a.Block))
	case "RemoveIPAMHost":
		err = c.RemoveHost(ctx, a.Host)
	case "SetIPAMConfig":
		err = c.SetConfig(ctx, alloc.Config{StrictAffinity: a.StrictAffinity, AutoAllocate: a.AutoAllocateBlocks, MaxBlocks: a.MaxBlocksPerHost, CooldownSecs: a.IPCooldownSeconds})
	case "GetIPAMConfig":
		var conf alloc.Config
		conf, err = c.GetConfig(ctx)
		result = settings{conf.StrictAffinity, conf.AutoAllocate, conf.MaxBlocks, conf.CooldownSecs}
	case "GetUtilization":
		result, err = r.utilization(a)
	default:
		return nil, nil, false
	}
	return result, err, true
}

var errRefused = errors.New("refused as recorded")

// resource changes what the client's callbacks answer, and does what deleting
// a pool or a node does to addresses.
func (r *replay) resource(st step, a arguments) error {
	if st.Error != nil {
		return nil
	}
	switch st.Op {
	case "CreateIPReservation":
		return r.reserve(a)
	case "CreateIPPool", "UpdateIPPool":
		p, err := poolFrom(a.Name, a.Spec)
		r.pools[a.Name] = p
		return err
	case "DeleteIPPool":
		p := r.pools[a.Name].CIDR
		delete(r.pools, a.Name)
		return r.client.ReleasePoolAffinities(r.ctx, p)
	case "CreateNode", "UpdateNode":
		r.nodes[a.Name] = a.Labels
	case "DeleteNode":
		delete(r.nodes, a.Name)
		return r.client.RemoveHost(r.ctx, a.Name)
	}
	return nil
}

// reserve adds what an accepted IPReservation reserves.
func (r *replay) reserve(a arguments) error {
	for _, text := range a.ReservedCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		r.kept = append(r.kept, p)
	}
	return nil
}

func (r *replay) autoAssign(a arguments) ([]string, error) {
	req := AssignRequest{Node: a.Host, Handle: a.Handle, Attrs: a.Attrs, Use: a.IntendedUse, MaxBlocks: a.MaxBlocksPerHost, MaxPerHandle: a.MaxPerHandle, NamespaceLabels: a.NamespaceLabels}
	all := []string{}
	for _, family := range []struct {
		version, num int
		pools        []string
	}{{4, a.Num4, a.IPv4Pools}, {6, a.Num6, a.IPv6Pools}} {
		if family.num == 0 {
			continue
		}
		req.Family, req.Num, req.Pools = family.version, family.num, family.pools
		given, err := r.client.AutoAssign(r.ctx, req)
		all = append(all, texts(given)...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (r *replay) releaseIPs(a arguments) (any, error) {
	var list []alloc.Release
	for _, ip := range a.IPs {
		rel := alloc.Release{Addr: parseAddr(ip.Address), Handle: ip.Handle}
		if k, n, ok := symbol(ip.SequenceNumber); ok {
			seq := uint64(k*perBlock + n)
			rel.Sequence = &seq
		}
		list = append(list, rel)
	}
	done, err := r.client.ReleaseIPs(r.ctx, list)
	return [2][]string{sorted(done.Freed), sorted(done.NotAllocated)}, err
}

type holder struct {
	Handle    string            `json:"handle_id"`
	Secondary map[string]string `json:"secondary"`
}

type settings struct {
	StrictAffinity, AutoAllocateBlocks bool
	MaxBlocksPerHost                   int
	IPCooldownSeconds                  int
}

type counts struct{ Capacity, InUse, Available float64 }

func (r *replay) utilization(a arguments) (any, error) {
	uses, err := r.client.Utilization(r.ctx, a.Pools...)
	got := map[string]counts{}
	for _, u := range uses {
		capacity, _ := u.Capacity.Float64()
		available, _ := u.Available.Float64()
		got[u.Name] = counts{capacity, float64(u.InUse), available}
		for _, b := range u.Blocks {
			got[b.CIDR.String()+" of "+u.Name] = counts{float64(b.Capacity), float64(b.InUse), float64(b.Available)}
		}
	}
	return got, err
}

// recorded is the recorded result in the shape call answers, and the kind of
// error that stands for the recorded one.
func (r *replay) recorded(st step) (result any, kind string) {
	read := func(v any) {
		if err := json.Unmarshal(st.Result, v); err != nil {
			r.t.Fatalf("step %d: %v", st.N, err)
		}
	}
	kind = "none"
	if st.Error != nil {
		kind = kindFor(st.Error.Type, st.Error.Text).String()
		if st.Op == "AutoAssign" && strings.Contains(st.Error.Text, "required use") && !bytes.Contains(st.Args, []byte("Pools")) {
			kind = fault.Exhausted.String() // Invalid is a request that names an unfit pool
		}
	}
	switch st.Op {
	case "AutoAssign":
		var v struct {
			V4, V6 struct {
				IPs     []string
				Partial string `json:"partialFulfillmentError"`
			}
		}
		read(&v)
		if v.V4.Partial+v.V6.Partial != "" && kind == "none" {
			kind = fault.Exhausted.String()
		}
		ips := []string{}
		for _, ip := range slices.Concat(v.V4.IPs, v.V6.IPs) {
			addr, _, _ := strings.Cut(ip, "/")
			ips = append(ips, addr)
		}
		result = ips
	case "ReleaseIPs":
		var v struct{ NotAllocated, WithoutError []netip.Addr }
		read(&v)
		freed := slices.DeleteFunc(v.WithoutError, func(ip netip.Addr) bool { return slices.Contains(v.NotAllocated, ip) })
		result = [2][]string{sorted(freed), sorted(v.NotAllocated)}
	case "IPsByHandle":
		var v []netip.Addr
		read(&v)
		result = sorted(v)
	case "GetAssignmentAttributes":
		if st.Error == nil {
			var v holder
			read(&v)
			result = v
		}
	case "ClaimAffinity":
		var v struct{ Claimed, Failed []string }
		read(&v)
		result = [2][]string{texts(v.Claimed), texts(v.Failed)}
	case "GetIPAMConfig":
		var v settings
		read(&v)
		result = v
	case "GetUtilization":
		result = r.recordedUse(read)
	}
	return result, kind
}

func (r *replay) recordedUse(read func(any)) any {
	var v []struct {
		Name string
		counts
		Blocks []struct {
			CIDR string
			counts
		}
	}
	read(&v)
	want := map[string]counts{}
	for _, pool := range v {
		if pool.Name == "orphaned allocation blocks" {
			if len(pool.Blocks) == 0 {
				continue
			}
			pool.Name = ""
		}
		want[pool.Name] = pool.counts
		for _, b := range pool.Blocks {
			want[b.CIDR+" of "+pool.Name] = b.counts
		}
	}
	return want
}

// kindFor is the kind of error that stands for one of Calico's.
func kindFor(typ, text string) fault.Kind {
	switch typ {
	case "errors.ErrorResourceDoesNotExist", "errors.ErrorIPInCooldown":
		return fault.NotFound
	case "errors.ErrorResourceAlreadyExists", "errors.ErrorResourceUpdateConflict", "ipam.errBlockNotEmpty":
		return fault.Conflict
	case "ipam.invalidSizeError":
		return fault.Invalid
	case "errors.ErrorValidation":
		return fault.Internal // errRefused
	}
	for _, t := range []struct {
		has  string
		kind fault.Kind
	}{
		{"Block host affinity does not match", fault.Conflict},
		{"per host block limit", fault.Exhausted},
		{"failed to find or claim a block", fault.Exhausted},
		{"cannot find a qualified ippool, no pools match", fault.Invalid},
		{"cannot find a qualified ippool", fault.Exhausted},
		{"no configured Calico pools", fault.Exhausted},
	} {
		if strings.Contains(text, t.has) {
			return t.kind
		}
	}
	return fault.Invalid
}

func parseAddr(s string) netip.Addr {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return addr
}

func texts[T any](list []T) []string {
	all := []string{}
	for _, v := range list {
		switch v := any(v).(type) {
		case string:
			all = append(all, v)
		case netip.Addr:
			all = append(all, v.String())
		case netip.Prefix:
			all = append(all, v.String())
		}
	}
	return all
}

func sorted(ips []netip.Addr) []string {
	ips = slices.Clone(ips)
	slices.SortFunc(ips, netip.Addr.Compare)
	return texts(slices.Compact(ips))
}
