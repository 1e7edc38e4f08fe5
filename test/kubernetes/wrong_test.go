// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/test/kubernetes/cluster"
)

// toldLimit is how long a problem may take to become an event, with the time
// that kubectl takes to look.
const toldLimit = 4 * time.Second

// pool is a pool's manifest.
func pool(name, spec string) string {
	return fmt.Sprintf("{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: %s}, spec: {%s}}", name, spec)
}

// TestWrongManifests applies what is wrong: the API server refuses what it can
// judge, an event tells of the rest, and a pod with a wrong annotation holds
// no address.
func TestWrongManifests(t *testing.T) {
	c, _ := installed(t, cluster.Options{})
	for _, wrong := range []struct{ name, manifest, says string }{
		{"unknown field", pool("wrong", "cidr: 10.1.0.0/16, blocksize: 26"), "unknown field"},
		{"host bits", pool("wrong", "cidr: 10.1.0.1/16"), "host bits must be zero"},
		{"block too large", pool("wrong", "cidr: 10.1.0.0/16, blockSize: 8"), "blockSize"},
		{"encapsulation", pool("wrong", "cidr: 10.1.0.0/16, ipipMode: Always"), "not supported"},
		{"peer without AS number", "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: wrong}, spec: {peerIP: 192.0.2.1}}", "asNumber"},
	} {
		t.Run("refused "+wrong.name, func(t *testing.T) {
			if out, err := c.TryApply(wrong.manifest); err == nil || !strings.Contains(out, wrong.says) {
				t.Errorf("%v: %s, want a refusal that says %q", err, out, wrong.says)
			}
		})
	}
	for _, wrong := range []struct{ name, manifest, code string }{
		{"pool overlaps the nodes", pool("wrong", "cidr: 192.168.0.0/20"), "OC2001"},
		{"pool overlaps a pool", pool("wrong", "cidr: 172.16.128.0/20"), "OC2004"},
		{"pool overlaps the services", pool("wrong", "cidr: 10.96.0.0/20"), "OC2008"},
		{"selector", pool("wrong", `cidr: 10.1.0.0/16, nodeSelector: "role == "`), "OC2007"},
	} {
		t.Run("told "+wrong.name, func(t *testing.T) {
			c.Kubectl("delete", "events", "--all")
			out, err := c.TryApply(wrong.manifest)
			if err != nil {
				t.Logf("refused: %s", out)
				return
			}
			defer c.Kubectl("delete", "ippools.projectcalico.org", "wrong")
			took := c.With(t).Await(toldLimit, "event "+wrong.code, func() error {
				out, err := c.TryKubectl("get", "events", "-o", "custom-columns=:.reason,:.message")
				if err != nil || !strings.Contains(out, wrong.code) {
					return errAwaited(out, err)
				}
				return nil
			})
			t.Logf("told after %.1f s", took.Seconds())
		})
	}
	for _, wrong := range []struct{ name, annotation, says string }{
		{"no address", `cni.projectcalico.org/ipAddrs: '["300.1.1.1"]'`, "ipAddrs"},
		{"outside all pools", `cni.projectcalico.org/ipAddrs: '["203.0.113.1"]'`, "203.0.113.1"},
		{"unknown pool", `cni.projectcalico.org/ipv4pools: '["nowhere"]'`, "nowhere"},
	} {
		t.Run("pod "+wrong.name, func(t *testing.T) { wrongPod(t, c.With(t), wrong.annotation, wrong.says) })
	}
}

// wrongPod is a pod whose annotation is wrong: an event says so, and nothing is
// assigned.
func wrongPod(t *testing.T, c *cluster.Cluster, annotation, says string) {
	before, err := held(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(strings.Replace(first, "{name: first}", "{name: wrong, annotations: {"+annotation+"}}", 1))
	defer c.Kubectl("delete", "pod", "wrong", "--now")
	c.Await(20*time.Second, "an event of the pod", func() error {
		out, err := c.TryKubectl("get", "events", "--field-selector", "involvedObject.name=wrong,reason=FailedCreatePodSandBox", "-o", "custom-columns=:.message")
		if err != nil || !strings.Contains(out, says) {
			return errAwaited(out, err)
		}
		t.Log(strings.TrimSpace(out))
		return nil
	})
	after, err := held(c)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("assigned before %v, after %v", before, after)
	}
}
