// SPDX-License-Identifier: Apache-2.0

package env

import (
	"bufio"
	"encoding/json"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/uplink"
)

func environ(set map[string]string) []string {
	var list []string
	for name, value := range set {
		list = append(list, name+"="+value)
	}
	return list
}

func readLines(t *testing.T, file string, each func(line []byte)) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		each(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// differences from Calico's recorded behaviour, by environment as JSON, with
// their reasons. Entries that are not needed fail the test.
var differences = map[string]string{
	`{"CALICO_IPV4POOL_CIDR":"172.16.0.0/16","CALICO_IPV4POOL_IPIP":"Always"}`:       "encapsulation is refused until it is there",
	`{"CALICO_IPV4POOL_CIDR":"172.16.0.0/16","CALICO_IPV4POOL_IPIP":"always"}`:       "encapsulation is refused until it is there",
	`{"CALICO_IPV4POOL_CIDR":"172.16.0.0/16","CALICO_IPV4POOL_IPIP":"ALWAYS"}`:       "encapsulation is refused until it is there",
	`{"CALICO_IPV4POOL_CIDR":"172.16.0.0/16","CALICO_IPV4POOL_IPIP":"CrossSubnet"}`:  "encapsulation is refused until it is there",
	`{"CALICO_IPV4POOL_CIDR":"172.16.0.0/16","CALICO_IPV4POOL_IPIP":"cross-subnet"}`: "encapsulation is refused until it is there",
	`{"CALICO_IPV4POOL_CIDR":"172.16.0.0/16","CALICO_IPV4POOL_VXLAN":"Always"}`:      "encapsulation is refused until it is there",
	`{"CALICO_IPV4POOL_CIDR":"172.16.0.0/16","CALICO_IPV4POOL_VXLAN":"CrossSubnet"}`: "encapsulation is refused until it is there",
	`{"CALICO_IPV6POOL_BLOCK_SIZE":"129","CALICO_IPV6POOL_CIDR":"fd00:2::/64"}`:      "variables of IPv6 pools have no effect and are reported",
	`{"CALICO_IPV4POOL_CIDR":"10.7.0.0/16","CALICO_IPV4POOL_DISABLE_BGP_EXPORT":""}`: "an empty variable is one that is not set: Calico takes it for true",
}

// TestAsCalico compares with recordings of Calico's start. Its IPv6 pools are
// not compared: this version makes none.
func TestAsCalico(t *testing.T) {
	unneeded := maps.Clone(differences)
	vectors := 0
	readLines(t, "testdata/environment.jsonl", func(line []byte) {
		var v struct {
			Kind, Exit, NodeName string
			Environment          map[string]string
			Pools                map[string]v3.IPPoolSpec
		}
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		vectors++
		text, err := json.Marshal(v.Environment)
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := Parse(environ(v.Environment), "host")
		if v.Kind == "nodeName" {
			if err != nil || e.Node != v.NodeName {
				t.Errorf("%s: node %q, %v; Calico says %q", text, e.Node, err, v.NodeName)
			}
			return
		}
		want := map[string]v3.IPPoolSpec{}
		if pool, ok := v.Pools[DefaultPoolName]; ok {
			want[DefaultPoolName] = pool
		}
		got := map[string]v3.IPPoolSpec{}
		if err == nil {
			pools, err := e.DefaultPools(nil)
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
			for _, pool := range pools {
				got[pool.Metadata.Name] = pool.Spec
			}
		}
		_, differs := differences[string(text)]
		delete(unneeded, string(text))
		same := (err != nil) == (v.Exit != "") && cmp.Equal(want, got)
		if same == differs {
			t.Errorf("%s: listed as a difference: %v\ngot  %+v, %v\nwant %+v %s", text, differs, got, err, want, v.Exit)
		}
	})
	if vectors != 54 || len(unneeded) > 0 {
		t.Errorf("%d vectors, want 54; differences not met: %v", vectors, slices.Sorted(maps.Keys(unneeded)))
	}
}

func TestRefusedVariables(t *testing.T) {
	for entry, want := range map[string]string{
		"CALICO_IPV4POOL_IPIP=Always":             `environment variable CALICO_IPV4POOL_IPIP: "Always": not supported yet: want Never`,
		"CALICO_IPV4POOL_IPIP=bogus":              `environment variable CALICO_IPV4POOL_IPIP: "bogus": want Never, Always or CrossSubnet`,
		"CALICO_IPV4POOL_CIDR=10.0.0.1/16":        `environment variable CALICO_IPV4POOL_CIDR: "10.0.0.1/16": want a CIDR without host bits: 10.0.0.0/16`,
		"CALICO_IPV4POOL_CIDR=10.0.0.0/27":        `environment variable CALICO_IPV4POOL_CIDR: "10.0.0.0/27": want room for one block of /26`,
		"CALICO_IPV4POOL_BLOCK_SIZE=15":           `environment variable CALICO_IPV4POOL_BLOCK_SIZE: "15": want a prefix length from 20 to 32|environment variable CALICO_IPV4POOL_BLOCK_SIZE: "15": want at least 16, for one block must fit into 192.168.0.0/16`,
		"CALICO_IPV4POOL_NODE_SELECTOR=zone ==":   `environment variable CALICO_IPV4POOL_NODE_SELECTOR: "zone ==": want a selector (selector "zone ==": ends where a text in quotes should follow)`,
		"CALICO_IPV4POOL_NAT_OUTGOING=maybe":      `environment variable CALICO_IPV4POOL_NAT_OUTGOING: "maybe": want true or false`,
		"IP=192.168.0.300":                        `environment variable IP: "192.168.0.300": want an IPv4 address such as 192.168.0.11/24, autodetect or none`,
		"IP=fd00::1":                              `environment variable IP: "fd00::1": want an IPv4 address such as 192.168.0.11/24, autodetect or none`,
		"IP_AUTODETECTION_METHOD=interface=(":     `environment variable IP_AUTODETECTION_METHOD: "interface=(": want regular expressions joined by commas: error parsing regexp: missing closing ): ` + "`(`",
		"IP_AUTODETECTION_METHOD=interfaces=eth0": `environment variable IP_AUTODETECTION_METHOD: "interfaces=eth0": want score, first-found, kubernetes-internal-ip, can-reach=, interface=, skip-interface= or cidr=`,
		"AS=0":                                `environment variable AS: "0": want an AS number that is not reserved`,
		"AS=x":                                `environment variable AS: "x": want a number from 1 to 4294967295`,
		"CALICO_ROUTER_ID=::1":                `environment variable CALICO_ROUTER_ID: "::1": want an IPv4 address, or hash`,
		"CALICO_NETWORKING_BACKEND=vxlan":     `environment variable CALICO_NETWORKING_BACKEND: "vxlan": not supported yet: want bird`,
		"ETCD_ENDPOINTS=192.0.2.1:2379":       `environment variable ETCD_ENDPOINTS: "192.0.2.1:2379": want URLs joined by commas, as http://192.0.2.1:2379`,
		"ETCD_ENDPOINTS=ftp://192.0.2.1:2379": `environment variable ETCD_ENDPOINTS: "ftp://192.0.2.1:2379": want https://, http:// or unix:// in front of "ftp://192.0.2.1:2379"`,
		"FELIX_INTERFACEPREFIX=Cali":          `environment variable FELIX_INTERFACEPREFIX: "Cali": want one to four lower-case letters or digits, as cali`,
		"NODENAME=a_b":                        `environment variable NODENAME: "a_b": want letters, digits, "-" and ".", beginning and ending with a letter or digit`,
	} {
		_, _, err := Parse([]string{entry}, "host")
		if err == nil || strings.ReplaceAll(err.Error(), "\n", "|") != want {
			t.Errorf("%s:\ngot  %v\nwant %s", entry, err, want)
			continue
		}
		kind := fault.Invalid
		if strings.Contains(want, "not supported") {
			kind = fault.Unsupported
		}
		if one := err.(interface{ Unwrap() []error }).Unwrap()[0]; !fault.Is(one, kind) || fault.HintOf(one) == "" {
			t.Errorf("%s: kind %v, hint %q", entry, fault.KindOf(one), fault.HintOf(one))
		}
	}
}

func TestAppliedVariables(t *testing.T) {
	e, problems, err := Parse([]string{
		"NODENAME=n1", "IP=192.168.0.11", "AS=1.10", "CALICO_ROUTER_ID=hash", "ETCD_ENDPOINTS=http://a:1,unix:///run/e",
		"FELIX_INTERFACEPREFIX=eni,cali", "FELIX_LOGSEVERITYSCREEN=Warning", "CALICO_IPV4POOL_CIDR=10.0.0.0/16", "IP_AUTODETECTION_METHOD=cidr=10.0.0.0/8",
	}, "host")
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v, %v", problems, err)
	}
	if e.Node != "n1" || !e.IP.Bare || *e.AS != 65546 || e.RouterID != names.RouterIDHash("n1") || len(e.EtcdEndpoints) != 2 ||
		e.InterfacePrefix != "eni" || e.LogLevel != slog.LevelWarn || e.PoolVariables["CALICO_IPV4POOL_CIDR"] != "10.0.0.0/16" || e.Method.String() != "cidr=10.0.0.0/8" {
		t.Errorf("%+v", e)
	}
	e, problems, err = Parse(nil, "Host.Example")
	if err != nil || len(problems) > 0 || e.Node != "host.example" || e.InterfacePrefix != "cali" || e.AS != nil || e.RouterID.IsValid() {
		t.Errorf("empty environment: %+v, %v, %v", e, problems, err)
	}
}

func TestWhatHasNoEffectIsReported(t *testing.T) {
	_, problems, err := Parse([]string{
		"CALICO_IPV4POOL_BLOCKSIZE=26", "FELIX_IPV6SUPPORT=false", "FELIX_BpfEnabled=true", "CLUSTER_TYPE=k8s,bgp", "PATH=/bin",
		"CALICO_TYPHA_SERVICE_HOST=10.96.0.7", "CALICO_TYPHA_PORT_5473_TCP_ADDR=10.96.0.7", "CALICO_TYPHA_PORT=tcp://10.96.0.7:5473", "FELIX_DEFAULTENDPOINTTOHOSTACTION=accept",
	}, "n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, string(p.Code)+" "+p.Text)
	}
	want := []string{
		`OC5005 FELIX_BPFENABLED is set to "true" but has no effect: pods are routed by the kernel`,
		`OC5005 CALICO_IPV4POOL_BLOCKSIZE is set to "26" but has no effect: this version does not know it (did you mean CALICO_IPV4POOL_BLOCK_SIZE?)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDefaultPoolAvoidsTheNodesNetworks(t *testing.T) {
	nets := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, test := range []struct {
		cidr     string
		networks []netip.Prefix
		want     string
	}{
		{"", nets("10.0.0.5/24"), "192.168.0.0/16"},
		{"", nets("192.168.0.11/24"), "172.16.0.0/16"},
		{"", nets("192.168.0.11/24", "172.16.5.1/15"), "172.18.0.0/16"},
		{"", nets("192.168.0.11/24", "172.16.0.1/12"), ""},
		{"10.0.0.0/8", nets("10.1.2.3/24"), ""},
		{"10.0.0.0/16", nets("10.1.2.3/24"), "10.0.0.0/16"},
	} {
		e, _, err := Parse([]string{"CALICO_IPV4POOL_CIDR=" + test.cidr}, "n")
		if err != nil {
			t.Fatal(err)
		}
		pools, err := e.DefaultPools(test.networks)
		if test.want == "" {
			if !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
				t.Errorf("%q beside %v: %v, %v", test.cidr, test.networks, pools, err)
			}
			continue
		}
		if err != nil || len(pools) != 1 || pools[0].Spec.CIDR != test.want {
			t.Errorf("%q beside %v: %v, %v; want %s", test.cidr, test.networks, pools, err, test.want)
			continue
		}
		const applied = `{"disableBGPExport":"false","ipipMode":"Never","natOutgoing":"true","nodeSelector":"all()","vxlanMode":"Never"}`
		if got := pools[0].Metadata.Annotations[AppliedAnnotation]; got != applied {
			t.Errorf("record of what was applied: %s", got)
		}
	}
}

// TestCalicosManifest has the environment of calico/node and of calico/cni as
// Calico's own manifest sets it for plain BGP, keys of its ConfigMap resolved,
// and what is said of it.
func TestCalicosManifest(t *testing.T) {
	e, problems, err := Parse([]string{
		"DATASTORE_TYPE=kubernetes", "WAIT_FOR_DATASTORE=true", "NODENAME=k8s-node-1", "CALICO_NETWORKING_BACKEND=bird", "CLUSTER_TYPE=k8s,bgp",
		"IP=autodetect", "CALICO_IPV4POOL_IPIP=Never", "CALICO_IPV4POOL_VXLAN=Never", "CALICO_IPV6POOL_VXLAN=Never",
		"FELIX_IPINIPMTU=0", "FELIX_VXLANMTU=0", "FELIX_WIREGUARDMTU=0", "CALICO_IPV4POOL_CIDR=172.16.0.0/16",
		"CALICO_DISABLE_FILE_LOGGING=true", "FELIX_DEFAULTENDPOINTTOHOSTACTION=ACCEPT", "FELIX_IPV6SUPPORT=false", "FELIX_HEALTHENABLED=true",
		"FELIX_TYPHAK8SSERVICENAME=none", "CALICO_CNI_SERVICE_ACCOUNT=calico-cni-plugin",
		"CNI_CONF_NAME=10-calico.conflist", `CNI_NETWORK_CONFIG={"name": "k8s-pod-network"}`, "KUBERNETES_NODE_NAME=k8s-node-1", "CNI_MTU=0", "SLEEP=false",
		"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443",
	}, "k8s-node-1")
	if err != nil || !e.Kubernetes || !e.Health.IsValid() || e.CNI.File != "10-calico.conflist" {
		t.Errorf("%+v, %v", e, err)
	}
	if len(problems) != 1 || !strings.Contains(problems[0].Text, "CNI_NETWORK_CONFIG") {
		t.Errorf("want a report of CNI_NETWORK_CONFIG alone: %v", problems)
	}
}

func TestTableIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range Variables() {
		if seen[v.Name] || v.Meaning == "" || v.Applied() == (v.Why != "") {
			t.Errorf("row %+v", v)
		}
		seen[v.Name] = true
	}
}

func FuzzParse(f *testing.F) {
	f.Add("IP_AUTODETECTION_METHOD", "skip-interface=a,b")
	f.Add("CALICO_IPV4POOL_CIDR", "10.0.0.0/8")
	f.Add("IP", "10.0.0.1/8")
	f.Add("AS", "1.2")
	f.Add("ETCD_ENDPOINTS", "http://a:1,")
	f.Add("FELIX_X", "y")
	f.Fuzz(func(t *testing.T, name, value string) {
		e, _, err := Parse([]string{name + "=" + value}, "n")
		if err != nil {
			return
		}
		pools, err := e.DefaultPools(nil)
		if err != nil || len(pools) > 1 {
			t.Fatalf("%v, %v", pools, err)
		}
		if again, err := uplink.ParseMethod(e.Method.String()); err != nil || again.String() != e.Method.String() {
			t.Errorf("method %q is read back as %q, %v", e.Method, again, err)
		}
	})
}
