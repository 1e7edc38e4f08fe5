// SPDX-License-Identifier: Apache-2.0

package metrics

import "slices"

// Kind is a metric's type, in Prometheus' words.
type Kind string

// The kinds.
const (
	Gauge     Kind = "gauge"
	Counter   Kind = "counter"
	Histogram Kind = "histogram"
)

// Metric is one row of the table.
type Metric struct {
	// Name is the metric's. It begins with ocicat_, unless it is Calico's or
	// one that every Prometheus client has.
	Name string
	// Kind is its type.
	Kind Kind
	// Labels are the names of its labels, in order.
	Labels []string
	// Help says what it is, with its unit where the name does not.
	Help string
	// Buckets are a histogram's upper bounds in seconds.
	Buckets []float64
}

// Buckets of times, in seconds: of calls that a person or a runtime waits
// for, and of work inside the agent.
var (
	callBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	workBuckets = []float64{.0005, .001, .0025, .005, .01, .02, .05, .1, .3, 1, 3, 10}
)

func find(name string) (Metric, bool) {
	at := slices.IndexFunc(table, func(m Metric) bool { return m.Name == name })
	if at < 0 {
		return Metric{}, false
	}
	return table[at], true
}

// Table lists every metric in the order of a page.
func Table() []Metric { return slices.Clone(table) }

var peerLabels = []string{"peer", "name", "type"}

var table = []Metric{
	{Name: "ocicat_build_info", Kind: Gauge, Labels: []string{"version", "commit", "goversion"}, Help: "Always 1; what the agent was built from."},
	{Name: "ocicat_agent_ready", Kind: Gauge, Help: "1 while the agent serves pods and has verified the node's routes."},
	{Name: "ocicat_problems", Kind: Gauge, Labels: []string{"code"}, Help: "What is wrong on this node now, by the codes of docs/troubleshooting.md."},

	{Name: "ocicat_bgp_peers", Kind: Gauge, Labels: []string{"state"}, Help: "Configured BGP peers by the state of their session (RFC 4271)."},
	{Name: "ocicat_bgp_peer_up", Kind: Gauge, Labels: peerLabels, Help: "1 while the session with the peer is Established."},
	{Name: "ocicat_bgp_peer_state_seconds", Kind: Gauge, Labels: peerLabels, Help: "Time since the session came up or went down."},
	{Name: "ocicat_bgp_peer_prefixes_received", Kind: Gauge, Labels: peerLabels, Help: "Prefixes the peer announces to this node."},
	{Name: "ocicat_bgp_peer_prefixes_announced", Kind: Gauge, Labels: peerLabels, Help: "Prefixes this node announces to the peer."},
	{Name: "ocicat_bgp_peer_stale", Kind: Gauge, Labels: peerLabels, Help: "1 while the peer's routes are kept over its restart (RFC 4724)."},
	{Name: "ocicat_bgp_peer_flaps_total", Kind: Counter, Labels: peerLabels, Help: "How often an Established session ended."},
	{Name: "ocicat_bgp_peer_messages_received_total", Kind: Counter, Labels: peerLabels, Help: "BGP messages received from the peer."},
	{Name: "ocicat_bgp_peer_messages_sent_total", Kind: Counter, Labels: peerLabels, Help: "BGP messages sent to the peer."},

	{Name: "ocicat_routes_wanted", Kind: Gauge, Help: "Routes to other nodes that the kernel should hold."},
	{Name: "ocicat_routes_installed", Kind: Gauge, Help: "Those of them it held, as they should be, at the last pass."},
	{Name: "ocicat_kernel_drift", Kind: Gauge, Help: "Differences between the kernel and what is wanted that the last pass found."},
	{Name: "ocicat_kernel_writes_total", Kind: Counter, Help: "Changes the passes made to the kernel; those of ADD and DEL are not among them."},
	{Name: "ocicat_kernel_drift_total", Kind: Counter, Help: "Those of them that followed a change behind the agent's back."},
	{Name: "ocicat_kernel_repair_seconds", Kind: Histogram, Buckets: workBuckets, Help: "Time from the kernel's word of a change behind the agent's back until it was undone."},

	{Name: "ipam_ippool_size", Kind: Gauge, Labels: []string{"ippool"}, Help: "Addresses of the IP pool."},
	{Name: "ipam_blocks", Kind: Gauge, Labels: []string{"ippool", "node"}, Help: "IPAM blocks this node has an affinity to."},
	{Name: "ipam_allocations_in_use", Kind: Gauge, Labels: []string{"ippool", "node"}, Help: "Addresses the node's pods have."},
	{Name: "ipam_allocations_borrowed", Kind: Gauge, Labels: []string{"ippool", "node"}, Help: "Those of them that lie in no block of this node."},
	{Name: "ocicat_ipam_reserve_addresses", Kind: Gauge, Help: "Addresses held ready for the next pods."},
	{Name: "ocicat_ipam_reserve_lease_seconds", Kind: Gauge, Help: "How long they may be given without the datastore."},
	{Name: "ocicat_ipam_writes_pending", Kind: Gauge, Help: "Assignments and releases the datastore does not have yet."},

	{Name: "ocicat_cni_requests_total", Kind: Counter, Labels: []string{"verb", "result"}, Help: "Requests of the CNI plugin, by how they ended: ok, or the kind of the error."},
	{Name: "ocicat_cni_request_duration_seconds", Kind: Histogram, Labels: []string{"verb"}, Buckets: callBuckets, Help: "Time the agent took for them."},
	{Name: "felix_active_local_endpoints", Kind: Gauge, Help: "Pods attached to this node."},
	{Name: "felix_cluster_num_hosts", Kind: Gauge, Help: "Nodes of the cluster."},

	{Name: "ocicat_datastore_connected", Kind: Gauge, Help: "1 while the datastore answers."},
	{Name: "ocicat_datastore_calls_total", Kind: Counter, Labels: []string{"op", "result"}, Help: "Calls to the datastore, by how they ended: ok, or the kind of the error. A failed comparison is a Conflict."},
	{Name: "ocicat_datastore_call_duration_seconds", Kind: Histogram, Labels: []string{"op"}, Buckets: callBuckets, Help: "Time they took; for watch until it was open."},
	{Name: "ocicat_datastore_revision", Kind: Gauge, Help: "The newest revision of the datastore this node saw."},
	{Name: "ocicat_datastore_heartbeat_age_seconds", Kind: Gauge, Help: "Time since the agent's last heartbeat the datastore took; not there before the first."},

	{Name: "ocicat_reconcile_passes_total", Kind: Counter, Labels: []string{"section", "result"}, Help: "Passes that compared what is with what should be: ok or error."},
	{Name: "ocicat_reconcile_pass_duration_seconds", Kind: Histogram, Labels: []string{"section"}, Buckets: workBuckets, Help: "Time they took."},
	{Name: "ocicat_reconcile_failing", Kind: Gauge, Labels: []string{"section"}, Help: "Failed passes in a row; 0 while all is well."},
	{Name: "felix_int_dataplane_failures", Kind: Counter, Help: "Passes over the kernel that failed and were tried again."},

	{Name: "go_info", Kind: Gauge, Labels: []string{"version"}, Help: "Always 1; the version of Go."},
	{Name: "go_goroutines", Kind: Gauge, Help: "Goroutines."},
	{Name: "go_memstats_heap_alloc_bytes", Kind: Gauge, Help: "Heap in use, garbage not yet collected included."},
	{Name: "go_memstats_sys_bytes", Kind: Gauge, Help: "Memory Go took from the system."},
	{Name: "process_cpu_seconds_total", Kind: Counter, Help: "CPU time, of user and system."},
	{Name: "process_resident_memory_bytes", Kind: Gauge, Help: "Resident memory."},
	{Name: "process_virtual_memory_bytes", Kind: Gauge, Help: "Virtual memory."},
	{Name: "process_open_fds", Kind: Gauge, Help: "Open file descriptors."},
	{Name: "process_max_fds", Kind: Gauge, Help: "File descriptors the process may have."},
	{Name: "process_start_time_seconds", Kind: Gauge, Help: "When the process started, since 1970."},
}
