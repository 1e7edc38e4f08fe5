// SPDX-License-Identifier: Apache-2.0

// Package env reads the environment variables that calico/node knows, with
// their meaning there: which are applied, which are refused, and which have no
// effect here and are reported. One table says so and is the documentation.
// It reads nothing but what it is given.
package env

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/problem"
	"github.com/ocicat-net/ocicat/internal/uplink"
)

// metricsPort is where Felix serves its metrics by default.
const metricsPort = 9091

// adminPort is where kubectl ocicat looks for the agents.
const adminPort = 9098

// healthPort is where Felix answers probes by default.
const healthPort = 9099

// Env is what the environment asks for. Fields whose variable is not set have
// the variable's default.
type Env struct {
	// Node is the node's name.
	Node string
	// Kubernetes says that the datastore is Kubernetes' API, not etcd.
	Kubernetes bool
	// EtcdEndpoints are where the datastore is, as URLs; empty when not set.
	EtcdEndpoints []string
	// IP says where the node's address comes from.
	IP uplink.IP
	// Method finds the address where IP says so.
	Method uplink.Method
	// AS is the node's own AS number, nil for the cluster's.
	AS *v3.ASNumber
	// RouterID is the BGP identifier; the zero address for the node's address.
	RouterID netip.Addr
	// InterfacePrefix begins the names of the pods' host interfaces.
	InterfacePrefix string
	// LogLevel is what the agent's log shows at least.
	LogLevel slog.Level
	// PoolVariables are the variables of the default pool as they are set, for
	// the record of what this node started with.
	PoolVariables map[string]string
	// Metrics is where metrics are served; invalid for nowhere.
	Metrics netip.AddrPort
	// Admin is where people reach the agent by port-forward; in use on Kubernetes
	// only.
	Admin netip.AddrPort
	// Health is where probes are answered; invalid for nowhere.
	Health netip.AddrPort
	// CNI is what the agent installs of the CNI plugin on its host, where its
	// flags say that it does.
	CNI CNI

	noDefaultPools bool
	noPool4        bool // CALICO_IPV4POOL_CIDR is "none"
	pool           v3.IPPoolSpec
	routerIDHash   bool
	noMetrics      bool
	health         bool
}

// CNI is what calico/cni's variables say.
type CNI struct {
	File   string   // name of the configuration, "" for the default
	MTU    int      // of the pods' links in bytes, 0 for the uplink's
	Skip   []string // names of binaries that are not installed
	Unused bool     // nothing is installed
}

// Parse reads an environment in the form of os.Environ; hostname names the
// node where no variable does. Variables without effect are Problems; what
// cannot be right is Invalid, what this version cannot do is Unsupported: all
// of them, joined, each naming its variable.
func Parse(environ []string, hostname string) (Env, []problem.Problem, error) {
	set := map[string]string{}
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		if upper := strings.ToUpper(name); strings.HasPrefix(upper, "FELIX_") {
			name = upper // in Calico, letter case does not count in these
		}
		if ok {
			set[name] = value
		}
	}
	e := Env{
		InterfacePrefix: "cali", PoolVariables: map[string]string{}, LogLevel: slog.LevelInfo,
		Metrics: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), metricsPort),
		Admin:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), adminPort),
		Health:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), healthPort),
		pool:    v3.IPPoolSpec{NATOutgoing: true, NodeSelector: "all()", IPIPMode: v3.Never, VXLANMode: v3.Never},
	}
	var errs []error
	var problems []problem.Problem
	for _, v := range Variables() {
		value, present := set[v.Name]
		if !present {
			continue
		}
		if v.read == nil {
			problems = append(problems, v.ignored(value)...)
			continue
		}
		if strings.HasPrefix(v.Name, "CALICO_IPV4POOL_") {
			e.PoolVariables[v.Name] = value
		}
		if value == "" {
			continue
		}
		if err := v.read(&e, value); err != nil {
			errs = append(errs, refuse(v.Name, v.shown(value), err))
		}
	}
	errs = append(errs, e.nameNode(set, hostname), e.checkPool(set))
	if e.noMetrics {
		e.Metrics = netip.AddrPort{}
	}
	if !e.health {
		e.Health = netip.AddrPort{}
	}
	if e.routerIDHash {
		e.RouterID = names.RouterIDHash(e.Node)
	}
	return e, append(problems, unknown(set)...), join(errs)
}

// refuse is the error of a variable's value.
func refuse(name, value string, err error) error {
	kind, hint := fault.Invalid, fault.HintOf(err)
	if fault.Is(err, fault.Unsupported) {
		kind = fault.Unsupported
	}
	refused := fault.New(kind, "environment variable %s: %q: %w", name, value, err)
	if hint != "" {
		return refused
	}
	return fault.Hint(refused, "Correct the variable, or unset it.")
}

// join joins errors, taking apart those that are joined themselves.
func join(errs []error) error {
	var flat []error
	for _, err := range errs {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			flat = append(flat, many.Unwrap()...)
			continue
		}
		flat = append(flat, err)
	}
	return errors.Join(flat...)
}

// nameNode chooses the node's name: NODENAME as it is written, else HOSTNAME,
// else the machine's name, both in lower case.
func (e *Env) nameNode(set map[string]string, hostname string) error {
	from := "the machine's hostname"
	e.Node = strings.ToLower(strings.TrimSpace(hostname))
	for _, name := range []string{"HOSTNAME", "NODENAME"} {
		value := strings.TrimSpace(set[name])
		if value == "" {
			continue
		}
		if from = "environment variable " + name; name == "HOSTNAME" {
			value = strings.ToLower(value)
		}
		e.Node = value
	}
	for _, f := range meta.CheckNodeName(from, e.Node) {
		return fault.Hint(fault.New(fault.Invalid, "%s", f.Error()), "Set NODENAME to the node's name in the datastore.")
	}
	return nil
}

// ignored reports a variable that has no effect here, unless its value asks
// for what happens anyway.
func (v Variable) ignored(value string) []problem.Problem {
	if value == "" || slices.ContainsFunc(v.fine, func(f string) bool { return f == "*" || strings.EqualFold(f, value) }) {
		return nil
	}
	return []problem.Problem{problem.New(problem.EnvIgnored, v.Name, v.Name, v.shown(value), v.Why)}
}

// shown is the value as a message may show it.
func (v Variable) shown(value string) string {
	if v.secret {
		return "…"
	}
	return shorten(value)
}

// injected matches the variables Kubernetes sets for services whose names
// begin with "calico".
var injected = regexp.MustCompile(`^(CALICO|FELIX)_.*(_SERVICE_HOST|_SERVICE_PORT(_.*)?|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// unknown reports variables of Calico's name spaces that are in no row.
func unknown(set map[string]string) []problem.Problem {
	var known []string
	for _, v := range Variables() {
		known = append(known, v.Name)
	}
	var problems []problem.Problem
	for name, value := range set {
		ours := strings.HasPrefix(name, "CALICO_") || strings.HasPrefix(name, "FELIX_")
		if !ours || slices.Contains(known, name) || injected.MatchString(name) {
			continue
		}
		why := "this version does not know it"
		if near := meta.Nearest(name, known); near != "" {
			why += fmt.Sprintf(" (did you mean %s?)", near)
		}
		problems = append(problems, problem.New(problem.EnvIgnored, name, name, shorten(value), why))
	}
	return problem.Sort(problems)
}

// shorten cuts a value that would fill a report.
func shorten(value string) string {
	const most = 64
	if len(value) > most {
		return value[:most] + "…"
	}
	return value
}
