// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// gateway is where BIRD runs.
var gateway = netip.MustParseAddr("192.168.0.2")

// bird lets a BIRD at the gateway announce so many blocks of 10.244.0.0/16 to
// the master, and returns their number.
func (w *world) bird(blocks int) int {
	w.t.Helper()
	w.apply(`apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: physical}
spec: {cidr: 10.244.0.0/16, blockSize: 26, disabled: true}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: gateway}
spec: {peerIP: 192.168.0.2, asNumber: 64512, node: ` + master + `}
`)
	dir := w.t.TempDir()
	var conf strings.Builder
	conf.WriteString("router id 192.168.0.2;\nprotocol device {}\nprotocol static {\n\tipv4;\n")
	for i := range blocks {
		fmt.Fprintf(&conf, "\troute 10.244.%d.%d/26 blackhole;\n", i/4, i%4*64)
	}
	conf.WriteString("}\nprotocol bgp master {\n\tlocal 192.168.0.2 as 64512;\n\tneighbor 192.168.0.11 as 64512;\n\tipv4 { import all; export all; next hop self; };\n}\n")
	file := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+w.Name()+".gw", "bird", "-f", "-c", file, "-s", filepath.Join(dir, "ctl"))
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return blocks
}

// apply writes resources as a user would.
func (w *world) apply(text string) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "resources.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if out, code := w.Ocicat("apply", "-f", file); code != 0 {
		w.t.Fatalf("apply: exit %d: %s", code, out)
	}
}
