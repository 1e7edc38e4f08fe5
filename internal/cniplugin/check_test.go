// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// TestCheckAndGC: what the agent is asked, and what it says reaches the
// runtime.
func TestCheckAndGC(t *testing.T) {
	netns := "CNI_NETNS=" + nstest.New(t).Path()
	agent := startAgent(t)
	agent.keys = `,"prevResult":{"interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"172.16.196.1/32"},{"address":"2001:db8::1/64"}]},` +
		`"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]`
	for _, verb := range []string{"CHECK", "GC"} {
		if out, code := agent.exec(t, verb, "1.1.0", netns); code != 0 || strings.TrimSpace(out) != "" {
			t.Errorf("%s exits with %d: %s", verb, code, out)
		}
	}
	want := []cniwire.CheckRequest{{
		ID: cniwire.ID{ContainerID: "0123abcd", IfName: "eth0"}, Network: "k8s-pod-network", NetNSPath: strings.TrimPrefix(netns, "CNI_NETNS="),
		Prev: cniwire.Prev{
			Interfaces: []cniwire.PrevInterface{{Name: "eth0", InPod: true}},
			Addresses:  []netip.Prefix{netip.MustParsePrefix("172.16.196.1/32"), netip.MustParsePrefix("2001:db8::1/64")},
		},
	}}
	if diff := cmp.Diff(want, agent.checked(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("the agent was asked to check (-want +got):\n%s", diff)
	}
	if out, code := agent.exec(t, "GC", "1.1.0", "CNI_CONTAINERID=", "CNI_IFNAME="); code != 0 {
		t.Errorf("GC as libcni calls it exits with %d: %s", code, out)
	}
	agent.answer(fault.Hint(fault.New(fault.Conflict, "check devops/busybox: link eth0 in the pod is missing"), "Delete the pod."))
	said := failure{"1.1.0", 110, "check devops/busybox: link eth0 in the pod is missing", "Delete the pod."}
	if diff := cmp.Diff(said, agent.fails(t, "CHECK", "1.1.0", netns)); diff != "" {
		t.Errorf("CHECK (-want +got):\n%s", diff)
	}
	agent.keys = ""
	for verb, want := range map[string]string{"CHECK": "prevResult is missing", "GC": "cni.dev/valid-attachments is missing"} {
		if got := agent.fails(t, verb, "1.1.0", netns); got.Code != 7 || !strings.Contains(got.Msg, want) || got.Details == "" {
			t.Errorf("%s = %+v, want code 7 …%s…", verb, got, want)
		}
	}
	agent.keys = `,"prevResult":{}`
	for _, path := range []string{"", "/run/netns/absent", "/proc/self/ns/net"} {
		if got := agent.fails(t, "CHECK", "1.1.0", "CNI_NETNS="+path); got.Code != 4 {
			t.Errorf("CHECK with CNI_NETNS=%q = %+v, want code 4", path, got)
		}
	}
}
