// SPDX-License-Identifier: Apache-2.0

// Package problem is the one table of what can be wrong in a way an operator
// must know: a stable code, the wording and the remedy. Status, logs, Events
// and docs print from here, so the same thing reads the same everywhere.
package problem

import (
	"cmp"
	"fmt"
	"slices"
)

// Code is a problem's stable identity, as "OC1003".
type Code string

// The codes: 1xxx BGP, 2xxx addresses and pools, 3xxx CNI and endpoints, 4xxx
// the host, 5xxx the datastore and its objects. OC2003 said that natOutgoing was not
// done yet; it is not given again.
const (
	SessionDown      Code = "OC1001"
	NextHopOffLink   Code = "OC1003"
	PeerASMismatch   Code = "OC1004"
	OutsidePools     Code = "OC1006"
	PeerUnusable     Code = "OC1007"
	PoolOverlap      Code = "OC2001"
	NoFreeAddress    Code = "OC2002"
	AddressTaken     Code = "OC2006"
	PoolSelector     Code = "OC2007"
	PoolOfServices   Code = "OC2008"
	EncapUnsupported Code = "OC4002"
	PoolsOverlap     Code = "OC2004"
	NoPool           Code = "OC2005"
	PolicyIgnored    Code = "OC3001"
	ConflistShadowed Code = "OC3002"
	EndpointBroken   Code = "OC3003"
	NotInstalled     Code = "OC3004"
	DuplicateNode    Code = "OC4003"
	RouteShadowed    Code = "OC4004"
	KernelRefused    Code = "OC4005"
	FilterMissing    Code = "OC4006"
	AddressMissing   Code = "OC4007"
	AddressAmbiguous Code = "OC4008"
	AddressElsewhere Code = "OC4009"
	MetricsAway      Code = "OC4010"
	StateUnwritten   Code = "OC4011"
	HealthAway       Code = "OC4012"
	UnknownObject    Code = "OC5002"
	StoreAway        Code = "OC5003"
	IdentityConflict Code = "OC5004"
	EnvIgnored       Code = "OC5005"
	StoreRolledBack  Code = "OC5006"
	StoreDenied      Code = "OC5007"
	MassDeletion     Code = "OC5008"
	EnvDiffers       Code = "OC5009"
	StoreFull        Code = "OC5010"
	StoreLocked      Code = "OC5011"
)

// Entry is one row of the table.
type Entry struct {
	Code   Code
	Title  string // a few words
	Text   string // what happened, with %s for the particulars
	Remedy string // what to do
}

// Table lists every code, sorted. docs/troubleshooting.md is made from it.
var Table = []Entry{
	{SessionDown, "BGP session down", "session with %s is %s: %s", "Check that TCP port 179 is open both ways and that both ends agree on AS and password: ocicat bgp peers"},
	{NextHopOffLink, "next hop not on the link", "route %s from %s has next hop %s, which is on no directly connected network of this node: not installed", "Nodes must be layer-2 neighbours in plain BGP mode. Set the pool's ipipMode to CrossSubnet or Always, or peer with the routers between the nodes."},
	{PeerASMismatch, "peer AS differs", "peer %s: its OPEN says AS %s, configured is AS %s", "Correct spec.asNumber of the BGPPeer, or the node's AS."},
	{OutsidePools, "learned route outside all pools", "route %s from %s lies in no IP pool: not installed", "Add an IPPool that covers it, or stop the peer announcing it."},
	{PeerUnusable, "BGP peer not usable", "peer %s: %s", "Correct the BGPPeer: ocicat get bgppeer -o yaml"},
	{PoolOverlap, "pool overlaps a node network", "pool %s overlaps %s: the pool is not used on %s", "Choose another CIDR for the pool, or disable it."},
	{NoFreeAddress, "no free address", "no free address for a pod: %s", "ocicat ipam show --show-blocks lists who holds what; add a pool or enlarge one."},
	{PoolsOverlap, "pools overlap", "pool %s overlaps pool %s: the later one is not used", "Delete one of the two, or correct its CIDR."},
	{NoPool, "no pool", "no enabled IP pool selects this node: pods cannot get an address", "Create an IPPool: ocicat apply -f pool.yaml"},
	{AddressTaken, "address held by another", "address %s of %s is held by %s in the datastore", "Two pods use one address: delete the pod named first, its replacement gets another. A datastore restored from a backup, or two machines of one node name, can cause this."},
	{PoolSelector, "selector of a pool not understood", "pool %s: %s: %s: the pool selects nothing", "Correct the selector, as in projectcalico.org/zone == 'a'; all() selects everything."},
	{PoolOfServices, "pool overlaps the service range", "pool %s overlaps the service range %s: a pod and a Service may have one address", "Make another pool outside of that range, disable this one, and move its pods."},
	{ConflistShadowed, "another CNI configuration comes first", "%s sorts before %s, so new pods of this node do not use ocicat", "Move that file away; pods that were made with it keep its network until they are deleted. Or choose a name that sorts before it with CNI_CONF_NAME."},
	{PolicyIgnored, "network policies not enforced", "%d NetworkPolicies exist, and this version enforces none: every pod reaches every pod", "Do not rely on them: keep what must be kept apart on other networks, or delete them so that nobody does. They come with a later version."},
	{EndpointBroken, "endpoint broken", "endpoint %s: %s", "Delete the pod; its replacement is plumbed anew."},
	{NotInstalled, "CNI plugin not installed", "the plugin or its configuration cannot be put on this node: %s", "Free space, or make the directories writable that -cni-bin-dir and -cni-net-dir name; on Kubernetes they are mounted from the host. Pods keep their network; the agent tries on."},
	{EncapUnsupported, "encapsulation not available", "pool %s asks for %s, which this version does not do: routes of other nodes are installed without encapsulation where the next hop is on the link", "Set the pool's ipipMode and vxlanMode to Never."},
	{DuplicateNode, "node address used twice", "nodes %s and %s both have address %s: neither is peered with", "Correct the address of one of them (IP or IP_AUTODETECTION_METHOD)."},
	{RouteShadowed, "route shadowed", "our route %s is hidden by a better one: %s", "Find who writes that route and stop it; ours is not changed."},
	{KernelRefused, "kernel refused a write", "%s", "See the agent's log for the attempts; it keeps trying."},
	{FilterMissing, "packet filter missing", "this kernel cannot hold the table inet ocicat: %s", "Give it nftables (nf_tables with family inet, nft_fib_inet, nft_chain_nat, nft_masq). Until then natOutgoing has no effect, and the settings of the pods' links alone stand between pods and this node; docs/security.md says what they leave open."},
	{AddressMissing, "node without address", "this node has no address to speak BGP from: %s", "Bring the uplink up, or name the address with IP or IP_AUTODETECTION_METHOD: ocicat status -o wide lists the candidates. It is taken as soon as it is there."},
	{AddressAmbiguous, "node address ambiguous", "%s on %s was chosen as the node's address, but as good are: %s", "Say which one is meant with IP or IP_AUTODETECTION_METHOD, as interface=NAME or cidr=CIDR; or give the right one the default route."},
	{AddressElsewhere, "node address not on this node", "no device of this node has its address %s (%s)", "Add the address to a device, or correct IP or the Node; IP=autodetect follows the machine's address."},
	{MetricsAway, "metrics not served", "metrics cannot be served at %s: %s", "Free the port, or choose another with FELIX_PROMETHEUSMETRICSPORT; FELIX_PROMETHEUSMETRICSENABLED=false turns metrics off. All else goes on."},
	{StateUnwritten, "state file not written", "%s: %s", "Free space and inodes on that file system, or make it writable again: df, df -i, mount. Pods keep their network and DEL works; the agent tries on."},
	{HealthAway, "probes not answered", "Kubernetes' probes cannot be answered at %s: %s", "Free the port, or choose another with FELIX_HEALTHPORT, in the probes too; FELIX_HEALTHENABLED=false turns them off. All else goes on, but the kubelet restarts an agent whose probes fail."},
	{UnknownObject, "stored object not understood", "%s: %s: ignored, the others go on", "Correct or delete the object; a newer version of Ocicat may have written it."},
	{StoreAway, "datastore away", "the datastore does not answer: %s", "Pods keep their network and DEL works; new pods are served from the reserve. Bring the datastore back."},
	{IdentityConflict, "node name used by another machine", "the heartbeat of node %s was written by another instance: %s", "Two machines use one node name: give each its own NODENAME. Where one replaces the other it takes the name over three minutes after the other fell silent."},
	{EnvIgnored, "environment variable ignored", "%s is set to %q but has no effect: %s", "Unset it, or change the resource it stands for."},
	{StoreRolledBack, "datastore is not as this agent left it", "the heartbeat node %s wrote last is not in the datastore: %s; no address is given until all it holds are written there again", "The datastore was restored from a backup, or objects were deleted. Wait two minutes; then ocicat status shows what could not be written (OC2006), and ocicat ipam check what is left over: docs/ipam-repair.md."},
	{StoreDenied, "datastore and node do not accept each other", "the datastore cannot be used: %s", "Correct credentials or certificates (ETCD_USERNAME, ETCD_PASSWORD_FILE, ETCD_CA_CERT_FILE, ETCD_CERT_FILE): docs/datastore.md. Files are read anew, no restart is needed. Pods keep their network and DEL works."},
	{MassDeletion, "deletion of too much at once", "the datastore no longer has %s: not believed, this node goes on with what it knew", "Restore the datastore from a backup, or apply what is missing again; Nodes of living agents come back by themselves. If the deletion is meant, stop the agent, delete datastore.json in its state directory (/var/lib/ocicat) and start it."},
	{EnvDiffers, "environment differs from the pool", "%s asks for %q, but pool %s has %s %q", "Change the pool, or the variable on every node. A start changes a field only where the variable changed since this node's last start and nobody else changed the field; CIDR and block size are never changed."},
	{StoreFull, "datastore full", "the datastore refuses writes: %s", "etcd has reached its quota (alarm NOSPACE). Make room and clear the alarm: etcdctl compact REVISION, etcdctl defrag, etcdctl alarm disarm; or give it a larger --quota-backend-bytes. Pods keep their network, DEL works and is journalled, new pods are served from the reserve."},
	{StoreLocked, "datastore locked", "the datastore is locked (datastoreReady of ClusterInformation default is false): no new pod gets an address", "Wait until the migration that locked it has ended. If none runs, unlock it: calicoctl datastore migrate unlock, or kubectl patch clusterinformation default --type merge -p '{\"spec\":{\"datastoreReady\":true}}'. Pods keep their network and DEL works; what it releases is written afterwards."},
}

// Problem is one thing that is wrong now. Object names what it is about, and
// with Code is its identity.
type Problem struct {
	Code   Code   `json:"code"`
	Node   string `json:"node,omitempty"`
	Object string `json:"object,omitempty"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

// New fills the table's wording for code with args.
func New(code Code, object string, args ...any) Problem {
	e := Find(code)
	return Problem{Code: code, Object: object, Text: fmt.Sprintf(e.Text, args...), Remedy: e.Remedy}
}

// Find returns the table's entry for code; a code outside the table has only
// its code.
func Find(code Code) Entry {
	for _, e := range Table {
		if e.Code == code {
			return e
		}
	}
	return Entry{Code: code, Text: "%s"}
}

// Sort orders problems by code, then object, and drops repetitions.
func Sort(ps []Problem) []Problem {
	slices.SortFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(ps)
}
