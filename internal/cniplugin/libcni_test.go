// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// conflist is the one we ship, with the version asked for and the test's
// socket in it.
func conflist(t *testing.T, version, socket string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../deploy/10-ocicat.conflist")
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]any
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if version != "" {
		list["cniVersion"] = version
		delete(list, "cniVersions")
	}
	list["plugins"].([]any)[0].(map[string]any)["socket"] = socket
	text, err = json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestLibcni goes the way of containerd and CRI-O, in every version and in
// the one libcni picks from the shipped conflist.
func TestLibcni(t *testing.T) {
	chaos.Begin(t, "A14", "every verb by libcni in each version, and with the shipped conflist", "read by libcni").
		Measuredf("5 of 5 lists")
	for version, effective := range map[string]string{"0.3.1": "0.3.1", "0.4.0": "0.4.0", "1.0.0": "1.0.0", "1.1.0": "1.1.0", "": "1.1.0"} {
		agent := startAgent(t)
		list, err := libcni.ConfListFromBytes(conflist(t, version, agent.socket))
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
		rt := runtimeConf(nstest.New(t).Path())
		raw, err := cni.AddNetworkList(ctx, list, rt)
		if err != nil {
			t.Fatalf("%q: ADD: %v", version, err)
		}
		if raw.Version() != effective {
			t.Errorf("%q: result is of version %s, want %s", version, raw.Version(), effective)
		}
		result, err := types100.GetResult(raw)
		if err != nil {
			t.Fatal(err)
		}
		if len(result.IPs) != 1 || result.IPs[0].Address.String() != "172.16.196.1/32" || *result.IPs[0].Interface != 1 || result.Interfaces[1].Sandbox != rt.NetNS {
			t.Errorf("%q: result %+v", version, result)
		}
		req := agent.added()[0]
		if req.MAC != "0e:1c:2c:f6:2a:f9" || len(req.IPs) != 1 || len(req.Pools) != 1 || req.Pod.Name != "busybox" {
			t.Errorf("%q: capabilities and arguments did not arrive: %+v", version, req)
		}
		err = cni.CheckNetworkList(ctx, list, rt)
		if noCheck := errors.Is(err, libcni.ErrorCheckNotSupp); noCheck != (effective == "0.3.1") || err != nil && !noCheck {
			t.Errorf("%q: CHECK: %v", version, err)
		}
		for _, got := range agent.checked() {
			if diff := cmp.Diff(prev(effective), got.Prev, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("%q: prevResult (-want +got):\n%s", version, diff)
			}
		}
		if effective != "0.3.1" && len(agent.checked()) != 1 {
			t.Errorf("%q: the agent was asked %d times to check", version, len(agent.checked()))
		}
		if err := cni.GetStatusNetworkList(ctx, list); err != nil {
			t.Errorf("%q: STATUS: %v", version, err)
		}
		for range 2 {
			if err := cni.DelNetworkList(ctx, list, rt); err != nil {
				t.Errorf("%q: DEL: %v", version, err)
			}
		}
		if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
			t.Errorf("%q: VERSION: %v", version, err)
		}
	}
}

// prev is what an agent is to compare of the test's result: an MTU is told from
// 1.1.0 on.
func prev(version string) cniwire.Prev {
	mtu := 0
	if version == "1.1.0" {
		mtu = 1500
	}
	return cniwire.Prev{
		Interfaces: []cniwire.PrevInterface{{Name: "cali1dadcdd5b31", MAC: "ee:ee:ee:ee:ee:ee", MTU: mtu}, {Name: "eth0", MAC: "0e:1c:2c:f6:2a:f9", MTU: mtu, InPod: true}},
		Addresses:  []netip.Prefix{netip.MustParsePrefix("172.16.196.1/32")},
	}
}

// TestLibcniGC: libcni deletes what is stale in its cache by itself, then says
// what stays; no list, as Go prints an empty one, is nothing.
func TestLibcniGC(t *testing.T) {
	agent := startAgent(t)
	list, err := libcni.ConfListFromBytes(conflist(t, "", agent.socket))
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
	if _, err := cni.AddNetworkList(t.Context(), list, runtimeConf(nstest.New(t).Path())); err != nil {
		t.Fatal(err)
	}
	stays := types.GCAttachment{ContainerID: "ffff", IfName: "net1"}
	for _, valid := range [][]types.GCAttachment{{stays}, nil} {
		if err := cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
			t.Errorf("GC: %v", err)
		}
	}
	want := []cniwire.GCRequest{{Network: "k8s-pod-network", Valid: []cniwire.ID{{ContainerID: "ffff", IfName: "net1"}}}, {Network: "k8s-pod-network", Valid: []cniwire.ID{}}}
	if diff := cmp.Diff(want, agent.collected()); diff != "" {
		t.Errorf("the agent was asked (-want +got):\n%s", diff)
	}
	if err := cni.GCNetworkList(t.Context(), list, nil); err == nil || !strings.Contains(err.Error(), "cni.dev/valid-attachments is missing") {
		t.Errorf("GC without a list = %v", err)
	}
	if dels := agent.deleted(); len(dels) != 1 || dels[0].ContainerID != "0123abcd" {
		t.Errorf("stale attachment was not deleted: %v", dels)
	}
}

// TestLibcniReadsErrors: code, text and hint arrive in the runtime's log.
func TestLibcniReadsErrors(t *testing.T) {
	list, err := libcni.ConfListFromBytes(conflist(t, "", filepath.Join(t.TempDir(), "cni.sock")))
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
	_, err = cni.AddNetworkList(t.Context(), list, runtimeConf(nstest.New(t).Path()))
	var cniErr *types.Error
	if !errors.As(err, &cniErr) || cniErr.Code != types.ErrTryAgainLater || !strings.Contains(err.Error(), "Start ocicatd on this node") {
		t.Errorf("ADD = %v, want code 11 with the hint", err)
	}
	err = cni.GetStatusNetworkList(t.Context(), list)
	if !errors.As(err, &cniErr) || cniErr.Code != types.ErrPluginNotAvailable {
		t.Errorf("STATUS = %v, want code 50", err)
	}
}

func TestCnitool(t *testing.T) {
	ns := nstest.New(t)
	agent := startAgent(t)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "10-ocicat.conflist"), conflist(t, version, agent.socket), 0o600); err != nil {
			t.Fatal(err)
		}
		tool := func(verb string) string {
			t.Helper()
			cmd := exec.CommandContext(context.Background(), filepath.Join(bin, "cnitool"), verb, "k8s-pod-network", ns.Path())
			cmd.Env = append(os.Environ(), "CNI_PATH="+bin, "NETCONFPATH="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("cnitool %s %s: %v\n%s", verb, version, err, out)
			}
			return string(out)
		}
		var result struct {
			CNIVersion string
			IPs        []struct{ Address string }
		}
		if err := json.Unmarshal([]byte(tool("add")), &result); err != nil || result.CNIVersion != version || result.IPs[0].Address != "172.16.196.1/32" {
			t.Errorf("cnitool add: %+v, %v", result, err)
		}
		if version != "0.3.1" {
			tool("check")
		}
		if version == "1.1.0" {
			tool("status")
		}
		tool("del")
		tool("del")
	}
}

// TestShippedConflist keeps the file to what older runtimes need.
func TestShippedConflist(t *testing.T) {
	text, err := os.ReadFile("../../deploy/10-ocicat.conflist")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"`
		Name        string   `json:"name"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "disable") {
		t.Error("the conflist disables a command")
	}
	if list.CNIVersion != "1.0.0" || !slices.Equal(list.CNIVersions, []string{"1.0.0", "1.1.0"}) || list.Name != "k8s-pod-network" {
		t.Errorf("conflist says %+v", list)
	}
}

// TestProgram: the plugin is small, static and links no network library, for
// it is executed for every pod.
func TestProgram(t *testing.T) {
	const maxSize = 3_500_000 // bytes, stripped
	path := filepath.Join(bin, "ocicat-cni")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxSize {
		t.Errorf("ocicat-cni has %d bytes, want at most %d", info.Size(), maxSize)
	}
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if libs, err := program.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("ocicat-cni is linked to %v", libs)
	}
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			t.Error("ocicat-cni wants an interpreter: it is not static")
		}
	}
	out, err := exec.Command("go", "list", "-deps", "github.com/ocicat-net/ocicat/cmd/ocicat-cni").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if diff := cmp.Diff([]string{"net/netip"}, slices.DeleteFunc(deps, func(p string) bool {
		return p != "net" && !strings.HasPrefix(p, "net/") && !strings.Contains(p, "k8s.io") && p != "crypto/tls"
	})); diff != "" {
		t.Errorf("network packages linked (-want +got):\n%s", diff)
	}
}

func runtimeConf(netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: "0123abcd", IfName: "eth0", NetNS: netns,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "devops"}, {"K8S_POD_NAME", "busybox"}, {"Other", "x"}},
		CapabilityArgs: map[string]any{
			"mac":                               "0e:1c:2c:f6:2a:f9",
			"ips":                               []string{"172.16.196.1/24"},
			"io.kubernetes.cri.pod-annotations": map[string]string{"cni.projectcalico.org/ipv4pools": `["default"]`},
			"portMappings":                      []any{},
		},
	}
}
