// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/store"
)

// unpacked are the files of a dump by name.
func unpacked(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(head.Name, dumpDir+"/")] = string(data)
	}
}

// TestSysdump: what answers is in the archive, a dead node is named, and secrets
// are not there.
func TestSysdump(t *testing.T) {
	s, _, _ := articleScene(t)
	s.pod("k8s-node-2", "Failed", "192.168.0.13", agentPort)
	peer := `{"apiVersion":"projectcalico.org/v3","kind":"BGPPeer","metadata":{"name":"tor","annotations":{"site/token":"hush1","` + lastApplied + `":"{hush2}"}},
		"spec":{"peerIP":"192.0.2.1","asNumber":64512,"password":{"secretKeyRef":{"name":"bgp-passwords","key":"tor"}}}}`
	report := `{"apiVersion":"ocicat.net/v1","kind":"NodeStatus","metadata":{"name":"k8s-node-1"},"status":{"heartbeat":"2026-11-22T12:00:00Z","ready":true,"agent":{"version":"v1"}}}`
	for key, value := range map[store.Key]string{{Kind: store.BGPPeer, Name: "tor"}: peer, {Kind: store.NodeStatus, Name: "k8s-node-1"}: report} {
		if _, err := s.store.Put(t.Context(), key, []byte(value), store.AnyRevision); err != nil {
			t.Fatal(err)
		}
	}
	s.restarted("k8s-node-1")
	s.logs = map[string]string{
		"ocicat-node-k8s-node-1":          `level=INFO msg="peer set" peer=tor password=hush3 state=Established`,
		"ocicat-node-k8s-node-1 previous": `{"msg":"login","config":"users:\n- name: a\n  user:\n    token: hush4\n    client-key-data: hush5\n"}` + "\nAuthorization: Bearer hush67890\n",
	}
	s.events = map[string]string{
		"/api/v1/namespaces/default/events":     `{"metadata":{"uid":"1","name":"a","namespace":"default","resourceVersion":"1"},"reportingComponent":"ocicatd","message":"OC1001 session down, password: hush8"}`,
		"/api/v1/namespaces/kube-system/events": `{"metadata":{"uid":"2","name":"b","namespace":"kube-system","resourceVersion":"1"},"involvedObject":{"name":"coredns-1"},"message":"not ours"}`,
		"/api/v1/events":                        `{"metadata":{"uid":"3","name":"c","namespace":"shop","resourceVersion":"1"},"reason":"FailedCreatePodSandBox","message":"no free address"}`,
	}
	file := filepath.Join(s.dir, "dump.tar.gz")
	got := s.run("sysdump", "--file", file)
	if got.code != ExitProblems || !strings.Contains(got.stderr, "warning: k8s-node-2: ") {
		t.Errorf("%+v", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want 0600", info, err)
	}
	files := unpacked(t, file)
	var agents []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(name, "nodes/") {
			agents = append(agents, strings.TrimPrefix(name, "nodes/"))
		}
	}
	var want []string
	for _, node := range []string{"k8s-master-1", "k8s-node-1"} {
		for _, part := range []string{"endpoints", "paths", "report", "routes", "sessions"} {
			want = append(want, node+"/"+part+".json")
		}
	}
	if diff := cmp.Diff(want, agents); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, part := range map[string]string{
		"errors.txt": "k8s-node-2: its agent's pod", "status.txt": "k8s-node-1", "version.txt": "2026-11-22T12:00:00Z",
		"resources/bgppeers.json": `"name": "bgp-passwords"`, "nodes/k8s-node-1/routes.json": "172.16.109.64/26",
		"logs/kube-system/ocicat-node-k8s-node-1/agent.log": "state=Established", "logs/kube-system/ocicat-node-k8s-node-1/agent.previous.log": `"msg":"login"`,
		"events.json": "no free address", "pods.json": "ocicat-node-k8s-node-2", "index.json": `"complete": false`,
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("%s: %q, want %q", name, files[name], part)
		}
	}
	for name, text := range files {
		if strings.Contains(text, "hush") {
			t.Errorf("%s holds a secret:\n%s", name, text)
		}
	}
	if strings.Contains(files["events.json"], "not ours") || !strings.Contains(files["events.json"], "OC1001 session down") {
		t.Errorf("events:\n%s", files["events.json"])
	}
	if name := "logs/kube-system/ocicat-node-k8s-node-2/agent.log"; files[name] != "" || !strings.Contains(files["errors.txt"], name+": ") || !strings.Contains(files["index.json"], name+": ") {
		t.Errorf("the log of a dead node: %q, errors:\n%s", files[name], files["errors.txt"])
	}
	if got := s.run("sysdump", "--file", file); got.code != 3 {
		t.Errorf("over a file that exists: %+v", got)
	}
}

func TestSysdumpOfNothing(t *testing.T) {
	s, _, _ := articleScene(t)
	file := filepath.Join(s.dir, "dump.tar.gz")
	got := s.run("sysdump", "--file", file, "--context", "none")
	if _, err := os.Stat(file); got.code != 8 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%+v, %v", got, err)
	}
}
