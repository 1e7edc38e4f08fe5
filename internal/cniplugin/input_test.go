// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// base is a network configuration as a runtime sends it, and env a pod's
// environment in the order containerd was seen to use.
const (
	base    = `{"cniVersion":"1.1.0","name":"k8s-pod-network","type":"ocicat-cni"}`
	podArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=devops;K8S_POD_NAME=busybox-77649b9c55-fv298;K8S_POD_INFRA_CONTAINER_ID=0123abcd;K8S_POD_UID=3f2a"
)

func TestRequestFromConfigurationAndEnvironment(t *testing.T) {
	pod := cniwire.Pod{Namespace: "devops", Name: "busybox-77649b9c55-fv298", UID: "3f2a"}
	wanted := []netip.Addr{netip.MustParseAddr("172.16.196.1")}
	const mac = "0e:1c:2c:f6:2a:f9"
	for _, test := range []struct {
		name, conf, args string
		want             cniwire.AddRequest
	}{
		{"plain", base, "", cniwire.AddRequest{}},
		{"pod", base, podArgs, cniwire.AddRequest{Pod: pod}},
		{"arguments in another order", base, "K8S_POD_UID=3f2a;K8S_POD_NAME=busybox-77649b9c55-fv298;Foo=bar;K8S_POD_NAMESPACE=devops;IgnoreUnknown=true", cniwire.AddRequest{Pod: pod}},
		{"address and MAC in CNI_ARGS", base, "IP=172.16.196.1;MAC=0E:1C:2C:F6:2A:F9", cniwire.AddRequest{IPs: wanted, MAC: mac}},
		{"capabilities", with(`"runtimeConfig":{"mac":"0e:1c:2c:f6:2a:f9","ips":["172.16.196.1/24"]}`), "IP=9.9.9.9;MAC=0e:1c:2c:f6:2a:00", cniwire.AddRequest{IPs: wanted, MAC: mac}},
		{"args", with(`"args":{"cni":{"ips":["172.16.196.1"],"labels":[{"key":"a"}]}}`), "IP=9.9.9.9", cniwire.AddRequest{IPs: wanted}},
		{"annotations", with(`"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"cni.projectcalico.org/ipAddrs":"[\"172.16.196.1\"]","cni.projectcalico.org/hwAddr":"0e:1c:2c:f6:2a:f9","cni.projectcalico.org/ipv4pools":"[\"a\",\"10.0.0.0/16\"]","other":"x"}},"ipam":{"type":"calico-ipam","ipv4_pools":["b"]}`), "",
			cniwire.AddRequest{IPs: wanted, MAC: mac, Pools: []string{"a", "10.0.0.0/16"}, Annotated: true, PoolsNoted: true}},
		{"Calico's configuration", with(`"mtu":1450,"nodename":"k8s-node-1","datastore_type":"kubernetes","log_level":"info","ipam":{"type":"calico-ipam","assign_ipv4":"true","assign_ipv6":"false","ipv4_pools":["b"]},"policy":{"type":"k8s"},"kubernetes":{"kubeconfig":"/x"},"container_settings":{"allow_ip_forwarding":false}`), "",
			cniwire.AddRequest{MTU: 1450, NodeName: "k8s-node-1", Pools: []string{"b"}}},
		{"nothing before us", with(`"prevResult":null`), "", cniwire.AddRequest{}},
	} {
		test.want.ID = cniwire.ID{ContainerID: "0123abcd", IfName: "eth0"}
		test.want.Network, test.want.NetNSPath = "k8s-pod-network", "/run/netns/x"
		got, err := parse(test.conf, environ("CNI_ARGS", test.args))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestBadInput: each mistake is one error that names what and where, and
// carries the code the specification has for it.
func TestBadInput(t *testing.T) {
	for id, provoked := range map[string]string{
		"A11": "container ids and interface names with paths, dots, new lines, templates, of 16 bytes and of 1 MiB",
		"A12": "arguments unknown, twice, without a value, of 1 MiB, pods named like paths",
		"A13": "configurations empty, cut off, of wrong types, versions, keys and values",
	} {
		chaos.Begin(t, id, provoked, "code 4, 6, 7, 1, 2 or 112 and a line that names the place").Measuredf("every code and text as wanted")
	}
	const pods = `"io.kubernetes.cri.pod-annotations"`
	for _, test := range []struct {
		name, conf string
		env        map[string]string
		code       uint
		want       string
	}{
		{"empty", "", nil, 6, "stdin is empty"},
		{"truncated", `{"cniVersion":"1.1.0","na`, nil, 6, "configuration: byte 25: unexpected end of JSON input"},
		{"no object", `[]`, nil, 6, "configuration: the configuration itself is a JSON array, want an object"},
		{"name of a wrong type", `{"cniVersion":"1.1.0","name":7}`, nil, 6, "configuration: name is a JSON number, want a string"},
		{"mtu of a wrong type", with(`"mtu":"big"`), nil, 6, "configuration: mtu is a JSON string, want a whole number"},
		{"ips of a wrong type", with(`"runtimeConfig":{"ips":"10.0.0.1"}`), nil, 6, "configuration: runtimeConfig.ips is a JSON string, want a list"},
		{"version unknown", `{"cniVersion":"9.0.0","name":"n"}`, nil, 1, `cniVersion "9.0.0" is not supported`},
		{"version old", `{"cniVersion":"0.2.0","name":"n"}`, nil, 1, `cniVersion "0.2.0" is not supported, want one of 0.3.1, 0.4.0, 1.0.0, 1.1.0`},
		{"version missing", `{"name":"n"}`, nil, 1, `cniVersion "" is not supported`},
		{"name missing", `{"cniVersion":"1.1.0"}`, nil, 7, "configuration: name is empty"},
		{"name with a path", `{"cniVersion":"1.1.0","name":"../x"}`, nil, 7, `configuration: name "../x"`},
		{"socket relative", with(`"socket":"cni.sock"`), nil, 7, `configuration: socket "cni.sock": want an absolute path`},
		{"socket long", with(`"socket":"/` + strings.Repeat("x", 107) + `"`), nil, 7, "at most 107 bytes"},
		{"timeout no duration", with(`"timeout":"5"`), nil, 7, `configuration: timeout "5": want a duration`},
		{"timeout too long", with(`"timeout":"1h"`), nil, 7, `configuration: timeout "1h"`},
		{"mtu out of range", with(`"mtu":9`), nil, 7, "configuration: mtu 9 is outside 68-65535"},
		{"not first", with(`"prevResult":{"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/x"}]}`), nil, 7, "configuration: prevResult has interface eth0 in the pod already"},
		{"prevResult a list", with(`"prevResult":[]`), nil, 6, "configuration: prevResult is a JSON array, want an object"},
		{"prevResult's interfaces an object", with(`"prevResult":{"interfaces":{}}`), nil, 6, "configuration: prevResult.interfaces: "},
		{"prevResult's ips a word", with(`"prevResult":{"ips":"x"}`), nil, 6, "configuration: prevResult.ips: "},
		{"other IPAM", with(`"ipam":{"type":"host-local"}`), nil, 2, `ipam.type "host-local"`},
		{"pool without name", with(`"ipam":{"ipv4_pools":[""]}`), nil, 7, `pool "" is neither a name nor a CIDR`},
		{"IPAM with a subnet", with(`"ipam":{"type":"calico-ipam","subnet":"usePodCidr"}`), nil, 2, `ipam.subnet "usePodCidr"`},
		{"IPAM with ranges", with(`"ipam":{"ranges":[[{"subnet":"10.0.0.0/8"}]]}`), nil, 2, "ipam.ranges"},
		{"no IPv4", with(`"ipam":{"assign_ipv4":"false"}`), nil, 2, `ipam.assign_ipv4 "false"`},
		{"IPv6", with(`"ipam":{"assign_ipv6":"true"}`), nil, 2, `ipam.assign_ipv6 "true"`},
		{"IP forwarding", with(`"container_settings":{"allow_ip_forwarding":true}`), nil, 2, "container_settings.allow_ip_forwarding true"},
		{"two addresses", with(`"runtimeConfig":{"ips":["10.0.0.1","10.0.0.2"]}`), nil, 7, "runtimeConfig.ips asks for 2 addresses"},
		{"no address", with(`"runtimeConfig":{"ips":["ten"]}`), nil, 7, `runtimeConfig.ips: "ten" is not an IP address`},
		{"no prefix", with(`"runtimeConfig":{"ips":["10.0.0.1/x"]}`), nil, 7, `runtimeConfig.ips: "10.0.0.1/x" is not an IP address`},
		{"IPv6 address", with(`"args":{"cni":{"ips":["2001:db8::1"]}}`), nil, 112, "args.cni.ips: 2001:db8::1 is not an IPv4 address"},
		{"no MAC", with(`"runtimeConfig":{"mac":"x"}`), nil, 7, `runtimeConfig.mac: "x" is not a MAC address`},
		{"annotation no list", with(`"runtimeConfig":{` + pods + `:{"cni.projectcalico.org/ipAddrs":"10.0.0.1"}}`), nil, 7, `annotation cni.projectcalico.org/ipAddrs "10.0.0.1" of the pod is not a JSON list`},
		{"annotation not honoured", with(`"runtimeConfig":{` + pods + `:{"cni.projectcalico.org/floatingIPs":"[]"}}`), nil, 7, "annotation cni.projectcalico.org/floatingIPs"},
		{"annotation past IPAM", with(`"runtimeConfig":{` + pods + `:{"cni.projectcalico.org/ipAddrsNoIpam":"[\"10.0.0.1\"]"}}`), nil, 7, `annotation cni.projectcalico.org/ipAddrsNoIpam "[\"10.0.0.1\"]" of the pod is refused: an address that address management does not know`},
		{"annotation of IPv6", with(`"runtimeConfig":{` + pods + `:{"cni.projectcalico.org/ipAddrs":"[\"fd00::1\"]"}}`), nil, 7, "annotation cni.projectcalico.org/ipAddrs: fd00::1 is not an IPv4 address"},
		{"annotation of two addresses", with(`"runtimeConfig":{` + pods + `:{"cni.projectcalico.org/ipAddrs":"[\"10.0.0.1\",\"10.0.0.2\"]"}}`), nil, 7, "annotation cni.projectcalico.org/ipAddrs asks for 2 addresses"},
		{"annotation of a group MAC", with(`"runtimeConfig":{` + pods + `:{"cni.projectcalico.org/hwAddr":"01:00:5e:00:00:01"}}`), nil, 7, "annotation cni.projectcalico.org/hwAddr: "},
		{"annotation of an odd pool", with(`"runtimeConfig":{` + pods + `:{"cni.projectcalico.org/ipv4pools":"[\"a\", \"a b\"]"}}`), nil, 7, `annotation cni.projectcalico.org/ipv4pools: pool "a b" is neither a name nor a CIDR`},
		{"annotation of pools no list", with(`"runtimeConfig":{` + pods + `:{"cni.projectcalico.org/ipv4pools":"a"}}`), nil, 7, `annotation cni.projectcalico.org/ipv4pools "a" of the pod is not a JSON list`},

		{"nothing set", base, environ("CNI_CONTAINERID", "", "CNI_NETNS", "", "CNI_IFNAME", ""), 4, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME not set"},
		{"container id with a path", base, environ("CNI_CONTAINERID", "../x"), 4, `CNI_CONTAINERID "../x": character '/'`},
		{"container id of a dot", base, environ("CNI_CONTAINERID", ".x"), 4, `CNI_CONTAINERID ".x" does not start`},
		{"container id long", base, environ("CNI_CONTAINERID", strings.Repeat("x", 1<<20)), 4, "CNI_CONTAINERID has 1048576 bytes"},
		{"interface long", base, environ("CNI_IFNAME", "abcdefghijklmnop"), 4, `CNI_IFNAME "abcdefghijklmnop" has 16 bytes`},
		{"interface with a new line", base, environ("CNI_IFNAME", "a\nb"), 4, `CNI_IFNAME "a\nb": character '\n'`},
		{"interface a template", base, environ("CNI_IFNAME", "eth%d"), 4, `CNI_IFNAME "eth%d": character '%'`},
		{"argument unknown", base, environ("CNI_ARGS", "Foo=bar"), 4, `CNI_ARGS: "Foo" is unknown`},
		{"argument twice", base, environ("CNI_ARGS", "IP=1.2.3.4;IP=1.2.3.5"), 4, `CNI_ARGS: "IP" is set twice`},
		{"argument without value", base, environ("CNI_ARGS", "IP"), 4, `CNI_ARGS: "IP" is not a pair`},
		{"arguments long", base, environ("CNI_ARGS", "IgnoreUnknown=1;X="+strings.Repeat("x", 1<<20)), 4, "CNI_ARGS has 1048594 bytes"},
		{"IgnoreUnknown odd", base, environ("CNI_ARGS", "IgnoreUnknown=maybe"), 4, `CNI_ARGS: IgnoreUnknown is "maybe"`},
		{"pod with a path", base, environ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=../../x"), 4, `CNI_ARGS: pod name "../../x": character '/'`},
		{"pod without namespace", base, environ("CNI_ARGS", "K8S_POD_NAME=x"), 4, `CNI_ARGS: pod name "x" and namespace ""`},
	} {
		_, err := parse(test.conf, test.env)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\nwant …%s…", test.name, err, test.want)
			continue
		}
		if got := cniwire.CodeOf(err); got != test.code {
			t.Errorf("%s: code %d, want %d", test.name, got, test.code)
		}
	}
}

// TestBadKnowledge: what CHECK and GC are told must be usable as a whole, or
// nothing is done.
func TestBadKnowledge(t *testing.T) {
	for _, test := range []struct {
		name, keys string
		code       uint
		want       string
	}{
		{"prevResult missing", `"x":1`, 7, "prevResult is missing"},
		{"prevResult null", `"prevResult":null`, 7, "prevResult is missing"},
		{"prevResult a list", `"prevResult":[]`, 6, "prevResult is a JSON array, want an object"},
		{"prevResult's address no prefix", `"prevResult":{"ips":[{"address":"10.0.0.1"}]}`, 7, `prevResult.ips: address 0, "10.0.0.1", is not an address with its mask`},
		{"list missing", `"x":1`, 7, "cni.dev/valid-attachments is missing"},
		{"list an object", `"cni.dev/valid-attachments":{}`, 6, "cni.dev/valid-attachments: "},
		{"list of strings", `"cni.dev/valid-attachments":["a"]`, 6, "cni.dev/valid-attachments: "},
		{"list with a hole", `"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},null]`, 7, "valid attachment 1: container id is empty"},
		{"list with a path", `"cni.dev/valid-attachments":[{"containerID":"a","ifname":"../x"}]`, 7, "valid attachment 0: interface name"},
	} {
		var err error
		if strings.HasPrefix(test.name, "prev") {
			_, err = parsePrev([]byte(with(test.keys)))
		} else {
			err = gc(conf{Name: "n", Socket: "/nobody"}, []byte(with(test.keys)))
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || cniwire.CodeOf(err) != test.code {
			t.Errorf("%s: %v (code %d)\nwant …%s… (code %d)", test.name, err, cniwire.CodeOf(err), test.want, test.code)
		}
	}
	valid, err := parseValid([]byte(with(`"cni.dev/attachments":[{"containerID":"a","ifname":"eth0"}]`)))
	if err != nil || len(valid) != 1 || valid[0].String() != "a/eth0" {
		t.Errorf("list under its old name: %v, %v", valid, err)
	}
}

// FuzzKnown feeds what CHECK and GC are told: a refusal is never called ours.
func FuzzKnown(f *testing.F) {
	f.Add(with(`"prevResult":{"cniVersion":"0.4.0","interfaces":[{"name":"cali1","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","sandbox":"/x"}],"ips":[{"version":"4","interface":1,"address":"172.16.196.1/32"}]}`))
	f.Add(with(`"cni.dev/valid-attachments":[{"containerID":"0123abcd","ifname":"eth0"}],"cni.dev/attachments":[]`))
	f.Add(with(`"cni.dev/valid-attachments":null,"prevResult":null`))
	f.Fuzz(func(t *testing.T, stdin string) {
		if _, err := parsePrev([]byte(stdin)); err != nil && fault.KindOf(err) == fault.Internal {
			t.Errorf("bad prevResult is called internal: %v", err)
		}
		valid, err := parseValid([]byte(stdin))
		if err != nil && fault.KindOf(err) == fault.Internal {
			t.Errorf("bad list is called internal: %v", err)
		}
		if err == nil && valid == nil {
			t.Error("no list was taken for an empty one")
		}
	})
}

// FuzzInput feeds configuration and environment. What is accepted must be a
// request the agent accepts, and every refusal must be printable.
func FuzzInput(f *testing.F) {
	f.Add(base, podArgs, "0123abcd", "eth0")
	f.Add(with(`"runtimeConfig":{"mac":"0e:1c:2c:f6:2a:f9","ips":["172.16.196.1/24"]}`), "IP=9.9.9.9", "a", "net1")
	f.Add(with(`"ipam":{"type":"calico-ipam","ipv4_pools":["b"]},"mtu":1450`), "IgnoreUnknown=1;A=b", "a.b-c_d", "eth0")
	f.Add(with(`"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"cni.projectcalico.org/ipAddrs":"[\"172.16.196.1\"]"}}`), "", "a", "eth0")
	f.Fuzz(func(t *testing.T, conf, args, container, ifName string) {
		req, err := parse(conf, environ("CNI_ARGS", args, "CNI_CONTAINERID", container, "CNI_IFNAME", ifName))
		if err != nil {
			var printed failure
			if jerr := json.Unmarshal(errorJSON(latest, err), &printed); jerr != nil || printed.Code == 0 || printed.Msg == "" {
				t.Errorf("%v is printed as %+v, %v", err, printed, jerr)
			}
			if fault.KindOf(err) == fault.Internal {
				t.Errorf("bad input is called internal: %v", err)
			}
			return
		}
		if err := (cniwire.Request{V: cniwire.Version, Add: &req}).Validate(); err != nil {
			t.Errorf("accepted here, but the agent: %v", err)
		}
	})
}

// parse is what an ADD does before it opens anything.
func parse(stdin string, env map[string]string) (cniwire.AddRequest, error) {
	if env == nil {
		env = environ()
	}
	c, err := parseConf([]byte(stdin))
	if err != nil {
		return cniwire.AddRequest{}, err
	}
	req, err := Runtime{Getenv: func(name string) string { return env[name] }}.request(c, []byte(stdin))
	if err == nil {
		_, err = parseChained([]byte(stdin), req.IfName)
	}
	return req, err
}

// with is base and more keys.
func with(keys string) string { return strings.TrimSuffix(base, "}") + "," + keys + "}" }

// environ is a good environment with some variables changed.
func environ(pairs ...string) map[string]string {
	env := map[string]string{"CNI_CONTAINERID": "0123abcd", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}
	for i := 0; i+1 < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	return env
}
