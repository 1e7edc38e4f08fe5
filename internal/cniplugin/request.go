// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// Annotations of Calico's that a pod may carry. A runtime hands them over
// when the conflist names the capability io.kubernetes.cri.pod-annotations.
const (
	annotationPrefix = "cni.projectcalico.org/"
	annotationIPs    = annotationPrefix + "ipAddrs"
	annotationPools  = annotationPrefix + "ipv4pools"
	annotationMAC    = annotationPrefix + "hwAddr"
)

// refused are annotations that would change a pod's network in ways this
// version does not, with what to do instead; overlooking them would attach the
// pod wrongly.
var refused = []struct{ name, why, instead string }{
	{annotationPrefix + "ipAddrsNoIpam", "an address that address management does not know could be another pod's, and no node would announce it",
		"Put the address into an IPPool with assignmentMode Manual, and ask for it by " + annotationIPs + "."},
	{annotationPrefix + "floatingIPs", "this version translates no addresses", "Announce a service address, or remove the annotation."},
	{annotationPrefix + "allowedSourcePrefixes", "a pod sends from its own address only", "Remove the annotation."},
	{annotationPrefix + "ipv6pools", "this version attaches with IPv4 only", "Remove the annotation."},
}

// request makes the agent's request of environment and configuration. Of
// several places that ask for the same thing the first wins: runtimeConfig,
// the pod's annotation, the network's own configuration, CNI_ARGS.
func (r Runtime) request(conf conf, stdin []byte) (cniwire.AddRequest, error) {
	req := cniwire.AddRequest{Network: conf.Name, NetNSPath: r.Getenv("CNI_NETNS")}
	var err error
	if req.ID, err = r.id("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"); err != nil {
		return req, err
	}
	args, err := parseArgs(r.Getenv("CNI_ARGS"))
	if err != nil {
		return req, err
	}
	add, err := parseAddConf(stdin)
	if err != nil {
		return req, err
	}
	req.Pod, req.MTU, req.NodeName = args.pod, add.MTU, add.NodeName
	notes := add.RuntimeConfig.Annotations
	if err := checkAnnotations(notes); err != nil {
		return req, err
	}
	if req.IPs, err = wantedIPs(add, args); err != nil {
		return req, err
	}
	if req.MAC, err = wantedMAC(add, args); err != nil {
		return req, err
	}
	if req.Pools, req.PoolsNoted, err = wantedPools(add); err != nil {
		return req, err
	}
	req.Annotated = notes != nil
	return req, cniwire.Request{V: cniwire.Version, Add: &req}.Validate()
}

func checkAnnotations(notes map[string]string) error {
	for _, r := range refused {
		if value := notes[r.name]; value != "" {
			return badAnnotation(fault.Hint(fault.New(fault.Unsupported, "annotation %s %s of the pod is refused: %s", r.name, quote(value), r.why), "%s", r.instead))
		}
	}
	return nil
}

// badAnnotation gives whatever is wrong with a pod's annotation one code: the
// runtime cannot mend it by trying again.
func badAnnotation(err error) error { return cniwire.WithCode(cniwire.CodeConfig, err) }

// wantedPools are the pools the pod's annotation names, else those of the
// network.
func wantedPools(add addConf) (pools []string, noted bool, err error) {
	pools, err = notedPools(add.RuntimeConfig.Annotations)
	if err != nil || len(pools) > 0 {
		return pools, true, err
	}
	return add.IPAM.Pools, false, nil
}

// notedPools are the pools that annotations name.
func notedPools(notes map[string]string) ([]string, error) {
	pools, err := list(annotationPools, notes[annotationPools])
	if err != nil {
		return nil, err
	}
	for _, pool := range pools {
		if err := cniwire.CheckPool(pool); err != nil {
			return nil, badAnnotation(fmt.Errorf("annotation %s: %w", annotationPools, err))
		}
	}
	return pools, nil
}

// wantedIPs finds the addresses asked for by name: at most one, as long as
// pods have only IPv4.
func wantedIPs(add addConf, args args) ([]netip.Addr, error) {
	noted, err := list(annotationIPs, add.RuntimeConfig.Annotations[annotationIPs])
	if err != nil {
		return nil, err
	}
	sources := []struct {
		name string
		ips  []string
		mark func(error) error
	}{
		{"runtimeConfig.ips", add.RuntimeConfig.IPs, plain},
		{"annotation " + annotationIPs, noted, badAnnotation},
		{"args.cni.ips", add.Args.CNI.IPs, plain},
		{"CNI_ARGS IP", args.ips, plain},
	}
	for _, source := range sources {
		if len(source.ips) == 0 {
			continue
		}
		if len(source.ips) > 1 {
			return nil, source.mark(fault.New(fault.Invalid, "%s asks for %d addresses, a pod can have one", source.name, len(source.ips)))
		}
		addr, err := parseIP(source.ips[0])
		if err != nil {
			return nil, source.mark(fault.New(fault.KindOf(err), "%s: %w", source.name, err))
		}
		return []netip.Addr{addr}, nil
	}
	return nil, nil
}

func plain(err error) error { return err }

// parseIP reads an address; a prefix length behind it is for plugins with a
// subnet and means nothing here.
func parseIP(s string) (netip.Addr, error) {
	text, bits, hasBits := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(text)
	if n, berr := strconv.Atoi(bits); hasBits && (berr != nil || n < 0 || n > 128) || err != nil {
		return addr, fault.New(fault.Invalid, "%s is not an IP address", quote(s))
	}
	return addr, cniwire.CheckIP(addr)
}

func wantedMAC(add addConf, args args) (string, error) {
	sources := []struct{ name, mac string }{
		{"runtimeConfig.mac", add.RuntimeConfig.MAC},
		{"annotation " + annotationMAC, add.RuntimeConfig.Annotations[annotationMAC]},
		{"CNI_ARGS MAC", args.mac},
	}
	for _, source := range sources {
		if source.mac == "" {
			continue
		}
		if err := cniwire.CheckMAC(source.mac); err != nil {
			return "", fault.New(fault.Invalid, "%s: %w", source.name, err)
		}
		return strings.ToLower(source.mac), nil
	}
	return "", nil
}

// list reads an annotation that holds a JSON list of strings; "" is none.
func list(annotation, value string) ([]string, error) {
	if value == "" {
		return nil, nil
	}
	var items []string
	if err := json.Unmarshal([]byte(value), &items); err != nil {
		return nil, badAnnotation(fault.Hint(fault.New(fault.Invalid, "annotation %s %s of the pod is not a JSON list of strings", annotation, quote(value)),
			`Write it as ["A", "B"].`))
	}
	return items, nil
}

// args is what CNI_ARGS holds.
type args struct {
	pod cniwire.Pod
	ips []string
	mac string
}

// maxArgs bounds CNI_ARGS, in bytes.
const maxArgs = 64 << 10

// parseArgs reads CNI_ARGS: pairs as A=b joined by semicolons. A key that is
// unknown is an error unless IgnoreUnknown is true, wherever that stands.
func parseArgs(s string) (args, error) {
	var a args
	if len(s) > maxArgs {
		return a, environment("CNI_ARGS has %d bytes, at most %d are possible", len(s), maxArgs)
	}
	seen := map[string]string{}
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return a, environment("CNI_ARGS: %s is not a pair as KEY=value", quote(pair))
		}
		if _, twice := seen[key]; twice {
			return a, environment("CNI_ARGS: %s is set twice", quote(key))
		}
		seen[key] = value
	}
	return a, a.fill(seen)
}

func (a *args) fill(pairs map[string]string) error {
	lenient, err := parseBool(pairs["IgnoreUnknown"])
	if err != nil {
		return err
	}
	for key, value := range pairs {
		switch key {
		case "IgnoreUnknown", "K8S_POD_INFRA_CONTAINER_ID":
		case "K8S_POD_NAMESPACE":
			a.pod.Namespace = value
		case "K8S_POD_NAME":
			a.pod.Name = value
		case "K8S_POD_UID":
			a.pod.UID = value
		case "IP":
			a.ips = []string{value}
		case "MAC":
			a.mac = value
		default:
			if !lenient {
				return fault.Hint(environment("CNI_ARGS: %s is unknown", quote(key)), "Add IgnoreUnknown=1 to CNI_ARGS, or leave the key out.")
			}
		}
	}
	if err := a.pod.CheckPod(); err != nil {
		return environment("CNI_ARGS: %w", err)
	}
	return nil
}

// parseBool reads a boolean as runtimes write it; "" is false.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true":
		return true, nil
	case "", "0", "false":
		return false, nil
	}
	return false, environment("CNI_ARGS: IgnoreUnknown is %s, want 1, true, 0 or false", quote(s))
}

func quote(s string) string { return strconv.Quote(cniwire.Short(s)) }
