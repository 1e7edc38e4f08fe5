// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"regexp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// uplink is the name of every node's device on the network, the article's.
const uplink = "ens160"

// MaxNodes is how many nodes a lab can have: its network is a /24 with the
// nodes from .11 on.
const MaxNodes = 200

// Topology is what a lab shall be. Two topologies that are equal by == of
// their JSON are the same lab.
type Topology struct {
	Pool        netip.Prefix `json:"pool"`        // the one IP pool
	Gateway     netip.Prefix `json:"gateway"`     // default gateway, where etcd listens
	GatewayMAC  host.MAC     `json:"gatewayMAC"`  // of the gateway
	PermGateway bool         `json:"permGateway"` // permanent neighbour for 169.254.1.1 in pods
	Nodes       []NodeSpec   `json:"nodes"`       // in order of creation
}

// NodeSpec is a node a lab shall have.
type NodeSpec struct {
	Name string       `json:"name"`
	Addr netip.Prefix `json:"addr"` // of its uplink, with the network's mask
	MAC  host.MAC     `json:"mac"`  // of its uplink
}

// PodSpec is a pod to attach. Namespace and Name identify it.
type PodSpec struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Node      string     `json:"node"`
	MAC       host.MAC   `json:"mac,omitzero"` // of its eth0; zero: any
	IP        netip.Addr `json:"ip,omitzero"`  // asked for by name; zero: the next free one
}

// String is namespace and name joined by a slash.
func (p PodSpec) String() string { return p.Namespace + "/" + p.Name }

// Article is the source article's topology, continued with k8s-node-2,
// k8s-node-3, … where nodes is more than its two.
func Article(nodes int) (Topology, error) {
	if nodes < 1 || nodes > MaxNodes {
		return Topology{}, fault.Hint(fault.New(fault.Invalid, "lab of %d nodes: want 1 to %d", nodes, MaxNodes),
			"Name another number with --nodes.")
	}
	t := Topology{
		Pool:        netip.MustParsePrefix("172.16.0.0/16"),
		Gateway:     netip.MustParsePrefix("192.168.0.2/24"),
		GatewayMAC:  host.MAC{0x00, 0x50, 0x56, 0xe0, 0x1b, 0x11},
		PermGateway: true,
	}
	for i := range nodes {
		t.Nodes = append(t.Nodes, articleNode(i))
	}
	return t, nil
}

func articleNode(i int) NodeSpec {
	n := NodeSpec{
		Name: fmt.Sprintf("k8s-node-%d", i),
		Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 0, byte(11 + i)}), 24),
		MAC:  host.MAC{0x00, 0x0c, 0x29, 0x00, 0x00, byte(11 + i)},
	}
	switch i {
	case 0:
		n.Name, n.MAC = "k8s-master-1", host.MAC{0x00, 0x0c, 0x29, 0xb1, 0x02, 0xf0}
	case 1:
		n.MAC = host.MAC{0x00, 0x0c, 0x29, 0x90, 0xfa, 0xe2}
	}
	return n
}

// ArticlePods are the article's pods that fit a topology of that many nodes,
// in the order that gives them the article's addresses. coredns has no name
// in the article, so its interface's name cannot be the article's; and of the
// first pod's two MACs (it was created anew while the article was written)
// this is the one in the article's captured frames.
func ArticlePods(nodes int) []PodSpec {
	const master, worker = "k8s-master-1", "k8s-node-1"
	pods := []PodSpec{
		{Namespace: "devops", Name: "busybox-77649b9c55-fv298", Node: master, MAC: host.MAC{0x0e, 0x1c, 0x2c, 0xf6, 0x2a, 0xf9}},
		{Namespace: "kube-system", Name: "coredns-6d8c4cb4d-x7k2p", Node: master},
		{Namespace: "devops", Name: "busybox-77649b9c55-s7zfv", Node: worker, MAC: host.MAC{0x72, 0x19, 0x6b, 0x9b, 0xbf, 0xe2}},
		{Namespace: "devops", Name: "jenkins-56b6774bb6-d8v8b", Node: worker, MAC: host.MAC{0xaa, 0x2d, 0x89, 0xc6, 0x49, 0xdd}},
	}
	if nodes < 2 {
		return pods[:2]
	}
	return pods
}

// As Kubernetes names them; without dots, which separate the parts of a
// network namespace's name.
var (
	validLabel   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	validPodName = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,126}[a-z0-9])?$`)
)

// Validate says what is wrong with the names of p; the error is Invalid.
func (p PodSpec) Validate() error {
	switch {
	case !validLabel.MatchString(p.Namespace):
		return fault.Hint(fault.New(fault.Invalid, "pod namespace %q: not a name of lower-case letters, digits and dashes", p.Namespace),
			"Write the pod as NAMESPACE/NAME, for example devops/web-0.")
	case !validPodName.MatchString(p.Name):
		return fault.Hint(fault.New(fault.Invalid, "pod name %q: not a name of lower-case letters, digits, dashes and dots", p.Name),
			"Write the pod as NAMESPACE/NAME, for example devops/web-0.")
	}
	return nil
}

// Names of a lab's network namespaces. Nodes are named by labels, so "switch"
// and "gw" are no nodes' names in the topologies there are.
func (l *Lab) nodeNetns(node string) string { return l.name + "." + node }
func (l *Lab) podNetns(p PodSpec) string    { return l.name + "." + p.Namespace + "." + p.Name }
func (l *Lab) switchNetns() string          { return l.name + ".switch" }
func (l *Lab) gatewayNetns() string         { return l.name + ".gw" }
