// SPDX-License-Identifier: Apache-2.0

package env

import (
	"net/netip"
	"slices"

	v3 "github.com/ocicat-net/ocicat/api/v3"
)

// Variable is one row of the table.
type Variable struct {
	// Name is the variable.
	Name string
	// Meaning says what it is for.
	Meaning string
	// Default is its value when it is not set or empty; "" for none.
	Default string
	// Why says why it has no effect here; "" for variables that are applied.
	Why string

	read   func(*Env, string) error // nil: no effect
	fine   []string                 // values that ask for what happens anyway; "*": any
	secret bool                     // never print the value
}

// Applied says whether the variable has an effect.
func (v Variable) Applied() bool { return v.read != nil }

const (
	whyIPv6   = "IPv6 comes with a later issue"
	whyEncap  = "encapsulation comes with its own issue"
	whyPolicy = "policy comes with its own issue: every packet is accepted"
	whyOne    = "one program does all; its parts cannot be turned off"
)

// Variables returns the table: first what is applied, in the order of a
// start, then what is not.
func Variables() []Variable {
	return slices.Concat(applied(), ignored(), felix())
}

func applied() []Variable {
	return []Variable{
		{Name: "NODENAME", Meaning: "the node's name, in the letter case given", Default: "HOSTNAME", read: readNothing},
		{Name: "HOSTNAME", Meaning: "the node's name where NODENAME is not set, in lower case", Default: "the machine's hostname", read: readNothing},
		{Name: "DATASTORE_TYPE", Meaning: "the datastore: etcdv3, or kubernetes for the API server that `KUBECONFIG` names, else that of the pod the agent runs in", Default: "etcdv3", read: readDatastore},
		{Name: "CALICO_API_GROUP", Meaning: "where Calico's resources are in Kubernetes: projectcalico.org/v3 or crd.projectcalico.org/v1", Default: "the one that exists; of two the one with pools or blocks", read: readNothing},
		{Name: "KUBECONFIG", Meaning: "file that says where the API server is and who the agent is there", Default: "the pod's own API server and account", read: readNothing},
		{Name: "KUBERNETES_SERVICE_HOST", Meaning: "address of the pod's API server; to be set where the address of the service does not work before there is a network", Default: "as the kubelet sets it", read: readNothing},
		{Name: "KUBERNETES_SERVICE_PORT", Meaning: "its port", Default: "as the kubelet sets it", read: readNothing},
		{Name: "ETCD_ENDPOINTS", Meaning: "URLs of etcd joined by commas, https://, http:// or unix://", read: readEndpoints},
		{Name: "CALICO_NETWORKING_BACKEND", Meaning: "how nodes learn of each other: bird, which is BGP", Default: "bird", read: readBackend},
		{Name: "IP", Meaning: "the node's IPv4 address, with or without the length of its network; autodetect; or none", Default: "the Node's own, else autodetect", read: readIP},
		{Name: "IP_AUTODETECTION_METHOD", Meaning: "how the address is found: score, first-found, can-reach=HOST, interface=REGEX,…, skip-interface=REGEX,…, cidr=CIDR,…; see node-address.md", Default: "score", read: readMethod},
		{Name: "AS", Meaning: "the node's AS number", Default: "the cluster's", read: readAS},
		{Name: "CALICO_ROUTER_ID", Meaning: "the node's BGP identifier: an IPv4 address, or hash for one made of its name", Default: "the node's address", read: readRouterID},
		{Name: "NO_DEFAULT_POOLS", Meaning: "create no pool at the first start", Default: "false", read: readFlag(func(e *Env) *bool { return &e.noDefaultPools })},
		{Name: "CALICO_IPV4POOL_CIDR", Meaning: "CIDR of the pool created when the cluster has none; none for no pool", Default: "192.168.0.0/16, or the first of 172.16.0.0/16 to 172.31.0.0/16, that overlaps no network of the node", read: readPoolCIDR},
		{Name: "CALICO_IPV4POOL_BLOCK_SIZE", Meaning: "prefix length of that pool's blocks, 20 to 32", Default: "26", read: readBlockSize},
		{Name: "CALICO_IPV4POOL_IPIP", Meaning: "its ipipMode: Never (or off); other values are refused until encapsulation is there", Default: "Never", read: readMode(func(s *v3.IPPoolSpec) *string { return &s.IPIPMode })},
		{Name: "CALICO_IPV4POOL_VXLAN", Meaning: "its vxlanMode: as CALICO_IPV4POOL_IPIP", Default: "Never", read: readMode(func(s *v3.IPPoolSpec) *string { return &s.VXLANMode })},
		{Name: "CALICO_IPV4POOL_NAT_OUTGOING", Meaning: "its natOutgoing: docs/nat.md", Default: "true", read: readFlag(func(e *Env) *bool { return &e.pool.NATOutgoing })},
		{Name: "CALICO_IPV4POOL_NODE_SELECTOR", Meaning: "its nodeSelector", Default: "all()", read: func(e *Env, value string) error { e.pool.NodeSelector = value; return nil }},
		{Name: "CALICO_IPV4POOL_DISABLE_BGP_EXPORT", Meaning: "its disableBGPExport", Default: "false", read: readFlag(func(e *Env) *bool { return &e.pool.DisableBGPExport })},
		{Name: "FELIX_INTERFACEPREFIX", Meaning: "how the names of the pods' host interfaces begin; of several the first", Default: "cali", read: readInterfacePrefix},
		{Name: "FELIX_PROMETHEUSMETRICSENABLED", Meaning: "whether metrics are served", Default: "true", read: readMetricsEnabled},
		{Name: "FELIX_PROMETHEUSMETRICSHOST", Meaning: "address they are served at; 0.0.0.0 or :: for all of the node's", Default: "127.0.0.1", read: readHost(func(e *Env) *netip.AddrPort { return &e.Metrics })},
		{Name: "FELIX_PROMETHEUSMETRICSPORT", Meaning: "port they are served at", Default: "9091", read: readPort(func(e *Env) *netip.AddrPort { return &e.Metrics })},
		{Name: "OCICAT_ADMINPORT", Meaning: "port at 127.0.0.1 where `kubectl ocicat` reaches the agent by port-forward, on Kubernetes", Default: "9098", read: readPort(func(e *Env) *netip.AddrPort { return &e.Admin })},
		{Name: "FELIX_HEALTHENABLED", Meaning: "whether probes are answered: `/liveness` and `/readiness` over HTTP", Default: "false", read: readFlag(func(e *Env) *bool { return &e.health })},
		{Name: "FELIX_HEALTHHOST", Meaning: "address they are answered at", Default: "127.0.0.1", read: readHost(func(e *Env) *netip.AddrPort { return &e.Health })},
		{Name: "FELIX_HEALTHPORT", Meaning: "port they are answered at", Default: "9099", read: readPort(func(e *Env) *netip.AddrPort { return &e.Health })},
		{Name: "FELIX_LOGSEVERITYSCREEN", Meaning: "the agent's log level: Debug, Info, Warning or Error", Default: "Info", read: readLogLevel},
		{Name: "CALICO_MANAGE_CNI", Meaning: "whether the CNI plugin is installed on the host, where -cni-bin-dir and -cni-net-dir say where", Default: "true", read: readManageCNI},
		{Name: "CNI_CONF_NAME", Meaning: "name of the CNI configuration that is installed", Default: "10-ocicat.conflist", read: readConfName},
		{Name: "CNI_MTU", Meaning: "MTU of the pods' links in it; 0 for the uplink's", Default: "0", read: readMTU},
		{Name: "SKIP_CNI_BINARIES", Meaning: "CNI binaries that are not installed, joined by commas", read: readSkipped},
		{Name: "ETCD_CA_CERT_FILE", Meaning: "file with the authorities of etcd's certificate, PEM; see [datastore.md](datastore.md)", Default: "the machine's authorities", read: readNothing},
		{Name: "ETCD_CERT_FILE", Meaning: "file with the certificate shown to etcd, PEM", read: readNothing},
		{Name: "ETCD_KEY_FILE", Meaning: "file with its key, PEM", read: readNothing},
		{Name: "ETCD_USERNAME", Meaning: "etcd's user", read: readNothing},
		{Name: "ETCD_PASSWORD", Meaning: "the user's password; ETCD_PASSWORD_FILE keeps it out of the environment", read: readNothing, secret: true},
		{Name: "ETCD_PASSWORD_FILE", Meaning: "file with the password, mode 0600 (not in Calico)", read: readNothing},
	}
}

func ignored() []Variable {
	return []Variable{
		{Name: "CALICO_NODENAME_FILE", Meaning: "file the node's name is kept in", Why: "the plugin asks the agent", fine: []string{"*"}},
		{Name: "CALICO_K8S_NODE_REF", Meaning: "the node's name in Kubernetes", Why: "with DATASTORE_TYPE=kubernetes NODENAME is that name; with etcd nothing is read from Kubernetes"},
		{Name: "KUBERNETES_NODE_NAME", Meaning: "the node's name, for the CNI installer", Why: "NODENAME decides", fine: []string{"*"}},
		{Name: "SLEEP", Meaning: "whether the CNI installer goes on running", Why: "the agent installs, and keeps what it installed", fine: []string{"*"}},
		{Name: "CLUSTER_TYPE", Meaning: "a note on how the cluster was made", Why: "nothing depends on it", fine: []string{"*"}},
		{Name: "WAIT_FOR_DATASTORE", Meaning: "wait for the datastore at start", Why: "the agent always waits, and serves what it can meanwhile", fine: []string{"*"}},
		{Name: "AUTODETECT_POLL_INTERVAL", Meaning: "how often the address is looked for again", Why: "the kernel reports a change of address at once", fine: []string{"*"}},
		{Name: "DISABLE_NODE_IP_CHECK", Meaning: "start although another node has this node's address", Why: "the agent starts and reports OC4003", fine: []string{"*"}},
		{Name: "IP6", Meaning: "the node's IPv6 address", Why: whyIPv6, fine: []string{"none"}},
		{Name: "IP6_AUTODETECTION_METHOD", Meaning: "how it is found", Why: whyIPv6},
		{Name: "CALICO_IPV6POOL_CIDR", Meaning: "CIDR of the default IPv6 pool", Why: whyIPv6, fine: []string{"none"}},
		{Name: "CALICO_IPV6POOL_BLOCK_SIZE", Meaning: "prefix length of its blocks", Why: whyIPv6},
		{Name: "CALICO_IPV6POOL_VXLAN", Meaning: "its vxlanMode", Why: whyIPv6, fine: []string{"Never", "off"}},
		{Name: "CALICO_IPV6POOL_NAT_OUTGOING", Meaning: "its natOutgoing", Why: whyIPv6, fine: []string{"false"}},
		{Name: "CALICO_IPV6POOL_NODE_SELECTOR", Meaning: "its nodeSelector", Why: whyIPv6},
		{Name: "CALICO_IPV6POOL_DISABLE_BGP_EXPORT", Meaning: "its disableBGPExport", Why: whyIPv6},
		{Name: "FELIX_IPV6SUPPORT", Meaning: "whether pods have IPv6", Why: whyIPv6, fine: []string{"false"}},
		{Name: "CALICO_DISABLE_FILE_LOGGING", Meaning: "log to standard error alone", Why: "the agent logs to standard error", fine: []string{"true"}},
		{Name: "CALICO_STARTUP_LOGLEVEL", Meaning: "log level of the start", Why: "FELIX_LOGSEVERITYSCREEN is the agent's level", fine: []string{"*"}},
		{Name: "BGP_LOGSEVERITYSCREEN", Meaning: "log level of the BGP daemon", Why: "FELIX_LOGSEVERITYSCREEN is the agent's level", fine: []string{"*"}},
		{Name: "FELIX_LOGSEVERITYFILE", Meaning: "log level of the file", Why: "the agent logs to standard error", fine: []string{"none"}},
		{Name: "FELIX_LOGSEVERITYSYS", Meaning: "log level of syslog", Why: "the agent logs to standard error", fine: []string{"none"}},
		{Name: "FELIX_LOGFILEPATH", Meaning: "the log's file", Why: "the agent logs to standard error", fine: []string{"none"}},
		{Name: "CALICO_DISABLE_FELIX", Meaning: "do not program this node", Why: whyOne, fine: []string{"false"}},
		{Name: "CNI_NET_DIR", Meaning: "the host's directory of CNI configurations", Why: "the flag -cni-net-dir names the mount of that directory", fine: []string{"*"}},
		{Name: "CNI_NETWORK_CONFIG", Meaning: "template of the CNI configuration", Why: "the configuration is made of CNI_MTU and the flags -cni-network and -run-dir"},
		{Name: "CNI_NETWORK_CONFIG_FILE", Meaning: "file with that template", Why: "the configuration is made of CNI_MTU and the flags -cni-network and -run-dir"},
		{Name: "UPDATE_CNI_BINARIES", Meaning: "whether binaries that are there are replaced", Why: "those of our names always are, others never", fine: []string{"true"}},
		{Name: "CALICO_CNI_SERVICE_ACCOUNT", Meaning: "service account of the CNI plugin", Why: "the plugin holds no credentials", fine: []string{"*"}},
		{Name: "FELIX_DEFAULTENDPOINTTOHOSTACTION", Meaning: "what happens to packets from pods to their host", Why: whyPolicy, fine: []string{"ACCEPT", "RETURN"}},
		{Name: "FELIX_IPINIPENABLED", Meaning: "whether IPIP is on", Why: whyEncap, fine: []string{"false"}},
		{Name: "FELIX_IPINIPMTU", Meaning: "MTU of IPIP", Why: whyEncap, fine: []string{"*"}},
		{Name: "FELIX_VXLANENABLED", Meaning: "whether VXLAN is on", Why: whyEncap, fine: []string{"false"}},
		{Name: "FELIX_VXLANMTU", Meaning: "MTU of VXLAN", Why: whyEncap, fine: []string{"*"}},
		{Name: "FELIX_WIREGUARDENABLED", Meaning: "whether WireGuard is on", Why: whyEncap, fine: []string{"false"}},
		{Name: "FELIX_WIREGUARDMTU", Meaning: "MTU of WireGuard", Why: whyEncap, fine: []string{"*"}},
		{Name: "FELIX_BPFENABLED", Meaning: "whether eBPF replaces the kernel's own path", Why: "pods are routed by the kernel", fine: []string{"false"}},
		{Name: "FELIX_MTUIFACEPATTERN", Meaning: "devices whose smallest MTU the pods get", Why: "pods get the MTU of the device that carries the node's address"},
		{Name: "FELIX_DEVICEROUTEPROTOCOL", Meaning: "protocol number of routes", Why: "it is spec.routeProtocol of the OcicatConfiguration"},
		{Name: "FELIX_REMOVEEXTERNALROUTES", Meaning: "remove other programs' routes on the pods' interfaces", Why: "only our own routes are touched, and strangers on them reported"},
		{Name: "FELIX_PROMETHEUSGOMETRICSENABLED", Meaning: "whether metrics of Go are among them", Why: "they always are", fine: []string{"true"}},
		{Name: "FELIX_PROMETHEUSPROCESSMETRICSENABLED", Meaning: "whether metrics of the process are among them", Why: "they always are", fine: []string{"true"}},
		{Name: "FELIX_DATASTORETYPE", Meaning: "the datastore of this part", Why: "DATASTORE_TYPE decides", fine: []string{"etcdv3", "kubernetes"}},
		{Name: "FELIX_FELIXHOSTNAME", Meaning: "the node's name", Why: "NODENAME decides"},
		{Name: "FELIX_TYPHAADDR", Meaning: "address of the datastore's fan-out proxy", Why: "there is none: agents watch the datastore"},
		{Name: "FELIX_TYPHAK8SSERVICENAME", Meaning: "service of the datastore's fan-out proxy", Why: "there is none: agents watch the datastore", fine: []string{"none"}},
	}
}
