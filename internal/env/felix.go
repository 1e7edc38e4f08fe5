// SPDX-License-Identifier: Apache-2.0

package env

const (
	whyFilter = "packets are filtered by one nftables table, inet ocicat, written whole: docs/security.md"
	whyRoutes = "routes come from BGP and the node's own pods, and are compared with the kernel's whenever it reports a change"
	whyBPF    = "pods are routed by the kernel; eBPF is not used"
	whyReport = "nothing is reported to anybody; the node's state is in its NodeStatus"
)

// felix are Felix's variables that people set and that have no effect here.
// Those that are in no list are reported as well, but without a reason.
func felix() []Variable {
	return []Variable{
		{Name: "FELIX_ALLOWIPIPPACKETSFROMWORKLOADS", Meaning: "let pods send IPIP", Why: "no packet of a pod is dropped for its protocol", fine: []string{"true"}},
		{Name: "FELIX_ALLOWVXLANPACKETSFROMWORKLOADS", Meaning: "let pods send VXLAN", Why: "no packet of a pod is dropped for its protocol", fine: []string{"true"}},
		{Name: "FELIX_AWSSRCDSTCHECK", Meaning: "set the source check of AWS instances", Why: "nothing is asked of a cloud: turn the check off there", fine: []string{"DoNothing"}},
		{Name: "FELIX_BPFCONNECTTIMELOADBALANCING", Meaning: "services at connect time", Why: whyBPF, fine: []string{"Disabled"}},
		{Name: "FELIX_BPFEXTERNALSERVICEMODE", Meaning: "how packets to services from outside go on", Why: whyBPF, fine: []string{"*"}},
		{Name: "FELIX_BPFKUBEPROXYIPTABLESCLEANUPENABLED", Meaning: "remove kube-proxy's rules", Why: whyBPF, fine: []string{"*"}},
		{Name: "FELIX_BPFLOGLEVEL", Meaning: "log level of eBPF programs", Why: whyBPF, fine: []string{"*"}},
		{Name: "FELIX_CHAININSERTMODE", Meaning: "whether Calico's chains come first", Why: whyFilter, fine: []string{"*"}},
		{Name: "FELIX_DEVICEROUTESOURCEADDRESS", Meaning: "source address of routes to pods", Why: "the kernel chooses it"},
		{Name: "FELIX_ENDPOINTREPORTINGENABLED", Meaning: "write the state of endpoints to the datastore", Why: whyReport, fine: []string{"false"}},
		{Name: "FELIX_EXTERNALNODESCIDRLIST", Meaning: "other hosts that may send IPIP or VXLAN", Why: whyEncap},
		{Name: "FELIX_FAILSAFEINBOUNDHOSTPORTS", Meaning: "ports of the host that policy cannot close", Why: whyPolicy, fine: []string{"*"}},
		{Name: "FELIX_FAILSAFEOUTBOUNDHOSTPORTS", Meaning: "ports elsewhere that policy cannot close", Why: whyPolicy, fine: []string{"*"}},
		{Name: "FELIX_FLOATINGIPS", Meaning: "whether pods may have floating addresses", Why: "pods have the addresses of their pools", fine: []string{"Disabled"}},
		{Name: "FELIX_GENERICXDPENABLED", Meaning: "XDP on any device", Why: whyBPF, fine: []string{"false"}},
		{Name: "FELIX_INTERFACEEXCLUDE", Meaning: "devices that are not watched", Why: "IP_AUTODETECTION_METHOD=skip-interface= says which are not the uplink", fine: []string{"kube-ipvs0"}},
		{Name: "FELIX_INTERFACEREFRESHINTERVAL", Meaning: "how often devices are read again", Why: "the kernel reports their changes, and all is compared once a minute", fine: []string{"*"}},
		{Name: "FELIX_IPFORWARDING", Meaning: "whether the node forwards packets", Why: "it always does: pods would be cut off otherwise", fine: []string{"Enabled"}},
		{Name: "FELIX_IPTABLESBACKEND", Meaning: "which iptables is used", Why: whyFilter, fine: []string{"*"}},
		{Name: "FELIX_IPTABLESREFRESHINTERVAL", Meaning: "how often rules are compared", Why: whyFilter, fine: []string{"*"}},
		{Name: "FELIX_IPTABLESMARKMASK", Meaning: "bits of the packet mark that may be used", Why: "no packet is marked", fine: []string{"*"}},
		{Name: "FELIX_IPTABLESMANGLEALLOWACTION", Meaning: "what happens to accepted packets", Why: whyFilter, fine: []string{"*"}},
		{Name: "FELIX_IPTABLESFILTERALLOWACTION", Meaning: "what happens to accepted packets", Why: whyFilter, fine: []string{"*"}},
		{Name: "FELIX_KUBENODEPORTRANGES", Meaning: "ports of services on nodes", Why: "services are kube-proxy's", fine: []string{"*"}},
		{Name: "FELIX_LOGDEBUGFILENAMEREGEX", Meaning: "files whose debug log is shown", Why: "FELIX_LOGSEVERITYSCREEN is the level of all"},
		{Name: "FELIX_LOGPREFIX", Meaning: "prefix of logged packets", Why: whyPolicy, fine: []string{"*"}},
		{Name: "FELIX_METADATAADDR", Meaning: "address of OpenStack's metadata", Why: "OpenStack is not supported", fine: []string{"none", "127.0.0.1"}},
		{Name: "FELIX_NATOUTGOINGADDRESS", Meaning: "source of masqueraded packets", Why: "it is the address of the device they leave by"},
		{Name: "FELIX_NATOUTGOINGEXCLUSIONS", Meaning: "where nothing is masqueraded", Why: "on the way to pools only; a disabled pool adds a network: docs/nat.md", fine: []string{"IPPoolsOnly"}},
		{Name: "FELIX_NATPORTRANGE", Meaning: "ports of masqueraded packets", Why: "the kernel chooses them"},
		{Name: "FELIX_NETLINKTIMEOUTSECS", Meaning: "how long the kernel may take to answer", Why: "it is fixed", fine: []string{"*"}},
		{Name: "FELIX_NFTABLESMODE", Meaning: "nftables instead of iptables", Why: whyFilter, fine: []string{"*"}},
		{Name: "FELIX_POLICYSYNCPATHPREFIX", Meaning: "socket that tells other programs of policy", Why: whyPolicy},
		{Name: "FELIX_PROGRAMCLUSTERROUTES", Meaning: "who writes routes to other nodes", Why: whyOne, fine: []string{"*"}},
		{Name: "FELIX_REPORTINGINTERVALSECS", Meaning: "how often the agent reports itself", Why: whyReport, fine: []string{"*"}},
		{Name: "FELIX_REPORTINGTTLSECS", Meaning: "how long that report is valid", Why: whyReport, fine: []string{"*"}},
		{Name: "FELIX_ROUTEREFRESHINTERVAL", Meaning: "how often routes are compared", Why: whyRoutes, fine: []string{"*"}},
		{Name: "FELIX_ROUTESOURCE", Meaning: "what routes to other nodes are made of", Why: whyRoutes, fine: []string{"CalicoIPAM"}},
		{Name: "FELIX_ROUTETABLERANGE", Meaning: "routing tables that may be used", Why: "the main table alone is used", fine: []string{"*"}},
		{Name: "FELIX_ROUTETABLERANGES", Meaning: "routing tables that may be used", Why: "the main table alone is used", fine: []string{"*"}},
		{Name: "FELIX_SERVICELOOPPREVENTION", Meaning: "what happens to packets to services that do not exist", Why: "services are kube-proxy's", fine: []string{"Disabled"}},
		{Name: "FELIX_USAGEREPORTINGENABLED", Meaning: "tell the project of the cluster", Why: whyReport, fine: []string{"false"}},
		{Name: "FELIX_USEINTERNALDATAPLANEDRIVER", Meaning: "program the node itself", Why: whyOne, fine: []string{"true"}},
		{Name: "FELIX_WORKLOADSOURCESPOOFING", Meaning: "let pods send from any address they ask for", Why: "a pod sends from its own address: docs/security.md", fine: []string{"Disabled"}},
		{Name: "FELIX_XDPENABLED", Meaning: "drop packets by XDP where it helps", Why: whyBPF, fine: []string{"*"}},
	}
}
