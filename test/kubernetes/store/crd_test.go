// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/api/meta"
	"github.com/ocicat-net/ocicat/internal/resource"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/kube/shape"
	"github.com/ocicat-net/ocicat/test/kubernetes/apiserver"
)

// TestSchemas has the API server judge objects. It refuses what is wrong with
// one message that says what to do, and what package resource calls wrong.
func TestSchemas(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	for _, test := range []struct {
		kind store.Kind
		name string
		spec string
		want string // in the server's message; "" is accepted
	}{
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16"}`, ""},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": true, "nodeSelector": "all()", "allowedUses": ["Workload"], "assignmentMode": "Manual", "disabled": true, "disableBGPExport": true}`, ""},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/26"}`, ""},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "blockSize": 0}`, ""},
		{store.IPPool, "p", `{}`, "spec.cidr: Required value"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0"}`, "spec.cidr: Invalid value: \"10.244.0.0\": write a CIDR such as 10.244.0.0/16"},
		{store.IPPool, "p", `{"cidr": "10.244.0.1/16"}`, "spec.cidr: Invalid value: \"10.244.0.1/16\": host bits must be zero"},
		{store.IPPool, "p", `{"cidr": "fd00::/48", "blockSize": 122}`, "IPv6 is not supported yet"},
		{store.IPPool, "p", `{"cidr": "169.254.8.0/24"}`, "link-local, loopback or multicast"},
		{store.IPPool, "p", `{"cidr": "0.0.0.0/0"}`, "link-local, loopback or multicast"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "blockSize": 19}`, "blockSize must be from 20 to 32"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "blockSize": 33}`, "blockSize must be from 20 to 32"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/28"}`, "blockSize is too small: one block must fit into 10.244.0.0/28"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "ipipMode": "Always"}`, "IPIP is not supported yet"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "vxlanMode": "CrossSubnet"}`, "VXLAN is not supported yet"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "ipipMode": "Sometimes"}`, "supported values"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "allowedUses": ["Pods"]}`, "supported values"},
		{store.IPPool, "p", `{"cidr": "10.244.0.0/16", "blocksize": 26}`, `unknown field "spec.blocksize"`},
		{store.IPPool, "p", `{"cidr": 10}`, "spec.cidr"},
		{store.IPReservation, "r", `{"reservedCIDRs": ["10.0.0.1/32", "10.0.1.0/24"]}`, ""},
		{store.IPReservation, "r", `{"reservedCIDRs": ["10.0.0.1"]}`, "spec.reservedCIDRs[0]: Invalid value: \"10.0.0.1\": write a CIDR"},
		{store.IPReservation, "r", `{"reservedCIDRs": ["10.0.0.1/24"]}`, "host bits must be zero"},
		{store.BGPConfiguration, "default", `{"nodeToNodeMeshEnabled": false, "asNumber": 64513, "listenPort": 1790, "logSeverityScreen": "Info"}`, ""},
		{store.BGPConfiguration, "default", `{}`, ""},
		{store.BGPConfiguration, "mine", `{}`, "metadata.name must be default"},
		{store.BGPConfiguration, "default", `{"asNumber": 0}`, "spec.asNumber"},
		{store.BGPConfiguration, "default", `{"asNumber": 23456}`, "this AS number is reserved"},
		{store.BGPConfiguration, "default", `{"asNumber": 4294967296}`, "spec.asNumber"},
		{store.BGPConfiguration, "default", `{"listenPort": 70000}`, "spec.listenPort"},
		{store.BGPConfiguration, "default", `{"serviceClusterIPs": [{"cidr": "10.96.0.1/12"}]}`, "host bits must be zero"},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1", "asNumber": 4200000000}`, ""},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1:1790", "asNumber": 64512, "node": "n1"}`, ""},
		{store.BGPPeer, "rack", `{"peerSelector": "rack == 'a'"}`, ""},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1"}`, "asNumber is missing"},
		{store.BGPPeer, "rack", `{"asNumber": 64512}`, "peerIP is missing"},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.300", "asNumber": 64512}`, "write an address, as 192.0.2.1"},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1:0", "asNumber": 64512}`, "write an address, as 192.0.2.1"},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1:70000", "asNumber": 64512}`, "write an address, as 192.0.2.1"},
		{store.BGPPeer, "rack", `{"peerIP": "0.0.0.0", "asNumber": 64512}`, "write an address, as 192.0.2.1"},
		{store.BGPPeer, "rack", `{"peerIP": "224.0.0.5", "asNumber": 64512}`, "write an address, as 192.0.2.1"},
		{store.BGPPeer, "rack", `{"peerIP": "router", "asNumber": 64512}`, "write an address, as 192.0.2.1"},
		{store.BGPPeer, "rack", `{"peerIP": "[2001:db8::1]:99999", "asNumber": 64512}`, "write an address, as 192.0.2.1"},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1", "asNumber": 65535}`, "this AS number is reserved"},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1", "asNumber": 64512, "node": "n1", "nodeSelector": "all()"}`, "node and nodeSelector exclude each other"},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1", "peerSelector": "all()"}`, "peerIP and a selector of peers exclude each other"},
		{store.BGPPeer, "rack", `{"asNumber": 64512, "peerSelector": "all()"}`, "leave it out where peerSelector is given"},
		{store.BGPPeer, "rack", `{"peerIP": "192.0.2.1", "asNumber": 64512, "reachableBy": "gw"}`, "spec.reachableBy"},
		{store.IPAMConfig, "default", `{}`, ""},
		{store.IPAMConfig, "default", `{"strictAffinity": true, "maxBlocksPerHost": 4, "autoAllocateBlocks": false}`, ""},
		{store.IPAMConfig, "default", `{"autoAllocateBlocks": false}`, "both false"},
		{store.IPAMConfig, "default", `{"maxBlocksPerHost": 4}`, "needs strictAffinity"},
		{store.IPAMConfig, "default", `{"strictAffinity": true, "maxBlocksPerHost": -1}`, "spec.maxBlocksPerHost"},
		{store.IPAMConfig, "other", `{}`, "metadata.name must be default"},
		{store.OcicatConfiguration, "default", `{"routeProtocol": 80, "endpointMetric": 1024, "reserveSize": 0, "permanentGateway": false, "peerPrefixLimit": 1000}`, ""},
		{store.OcicatConfiguration, "default", `{"routeProtocol": 4}`, "spec.routeProtocol"},
		{store.OcicatConfiguration, "default", `{"endpointMetric": 4294967296}`, "spec.endpointMetric"},
		{store.OcicatConfiguration, "default", `{"reserveSize": 5000}`, "spec.reserveSize"},
		{store.OcicatConfiguration, "default", `{"peerPrefixLimit": 0}`, "spec.peerPrefixLimit"},
		{store.OcicatConfiguration, "mine", `{}`, "metadata.name must be default"},
	} {
		message := judge(t, server, test.kind, test.name, test.spec)
		switch {
		case test.want == "" && message != "":
			t.Errorf("%s %s: refused: %s", test.kind, test.spec, message)
		case test.want != "" && !strings.Contains(message, test.want):
			t.Errorf("%s %s: %q, want a refusal with %q", test.kind, test.spec, message, test.want)
		case strings.Count(message, "Invalid value") > 1 && !strings.Contains(message, "some validation rules were not checked"):
			t.Errorf("%s %s: more than one message: %s", test.kind, test.spec, message)
		}
		compare(t, test.kind, test.name, test.spec, message)
	}
}

// judge creates an object on trial and returns why the server refuses it.
func judge(t *testing.T, server *apiserver.Server, kind store.Kind, name, spec string) string {
	t.Helper()
	r, _ := shape.V3().Resource(kind)
	body := []byte(`{"apiVersion": "` + r.APIVersion + `", "kind": "` + r.Kind + `", "metadata": {"name": "` + name + `"}, "spec": ` + spec + `}`)
	answer := server.Admin().Try(http.MethodPost, r.Path()+"?dryRun=All&fieldValidation=Strict", "", body)
	if answer.OK() {
		return ""
	}
	return answer.Message()
}

// compare says where the server's judgement and our own differ: what we call
// wrong the server must refuse. What is right but not supported yet it may
// accept; agents report it.
func compare(t *testing.T, kind store.Kind, name, spec, message string) {
	t.Helper()
	k, _ := resource.FindStored(kind)
	o := k.New()
	o.ObjectMeta().Name = name
	err := json.Unmarshal([]byte(`{"spec": `+spec+`}`), o)
	o.ObjectMeta().Name = name
	o.SetDefaults()
	wrong, unsupported := err != nil, false
	for _, f := range o.Validate() {
		wrong = wrong || f.Level == meta.Wrong
		unsupported = unsupported || f.Level == meta.Unsupported
	}
	if wrong && message == "" {
		t.Errorf("%s %s: accepted, but wrong: %v", kind, spec, o.Validate())
	}
	if !wrong && !unsupported && message != "" && !strings.Contains(message, "unknown field") {
		t.Errorf("%s %s: refused, but right: %s", kind, spec, message)
	}
}

// TestPoolsKeepTheirShape changes what must not change.
func TestPoolsKeepTheirShape(t *testing.T) {
	server := apiserver.Start(t)
	server.InstallCRDs(definitions)
	admin := server.Admin()
	const pools = "/apis/projectcalico.org/v3/ippools"
	admin.Must(http.MethodPost, pools, "", []byte(`{"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/16"}}`))
	for patch, want := range map[string]string{
		`{"spec": {"disabled": true}}`:          "",
		`{"spec": {"blockSize": 26}}`:           "", // the default, written out
		`{"spec": {"cidr": "10.0.0.0/17"}}`:     "cidr cannot be changed",
		`{"spec": {"blockSize": 27}}`:           "blockSize cannot be changed",
		`{"status": {"conditions": [{}]}}`:      "", // not by this path
		`{"spec": {"nodeSelector": "all()"}}`:   "",
		`{"spec": {"vxlanMode": "Always"}}`:     "VXLAN is not supported yet",
		`{"spec": {"allowedUses": ["Tunnel"]}}`: "",
	} {
		answer := admin.Try(http.MethodPatch, pools+"/p", "application/merge-patch+json", []byte(patch))
		if got := answer.Message(); answer.OK() != (want == "") || !answer.OK() && !strings.Contains(got, want) {
			t.Errorf("%s: %d %s, want %q", patch, answer.Status, got, want)
		}
	}
}
