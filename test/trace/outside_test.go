// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/cli"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/internal/trace"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// gateway is a host outside the cluster, which knows no way to pods.
const gateway = "192.168.0.2"

// Lines of a pool's manifest.
var (
	natLine  = regexp.MustCompile(`(?m)^ *natOutgoing: .*\n`)
	cidrLine = regexp.MustCompile(`(?m)^( *)(cidr: .*)$`)
)

// setNAT makes the lab's pool one with natOutgoing, or one without, and waits
// until the master does so.
func setNAT(t *testing.T, l *labtest.Lab, on bool) {
	t.Helper()
	o := ocicat(t, l, "get", "ippools", "-o", "yaml")
	text := natLine.ReplaceAllString(o.stdout, "")
	if on {
		text = cidrLine.ReplaceAllString(text, "$1$2\n${1}natOutgoing: true")
	}
	file := filepath.Join(t.TempDir(), "pool.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := ocicat(t, l, "apply", "-f", file); o.code != cli.ExitOK {
		t.Fatalf("apply: exit %d\n%s%s\n%s", o.code, o.stdout, o.stderr, text)
	}
	nstest.Eventually(t, 5*time.Second, func() bool {
		return strings.Contains(l.Node(master, "nft list set inet ocicat masquerade-pools"), "172.16.0.0/16") == on
	}, "masquerading: ", on)
}

// A pod reaches the world outside with its node's address, which a captured
// packet shows; without natOutgoing it goes out with its own, and no answer
// comes back. Between pods nothing changes.
func TestOutside(t *testing.T) {
	l := labtest.Up(t, 2, pods(master, node1), nil)
	setNAT(t, l, true)
	r, code := traced(t, l, "web-0", gateway)
	if code != cli.ExitOK || len(r.Findings) > 0 || r.ReplyTTL != 63 || len(r.Captured) != 6 {
		t.Errorf("exit %d, findings %v, reply with ttl %d, %d frames captured", code, r.Findings, r.ReplyTTL, len(r.Captured))
	}
	if src := seenOutside(t, r); src != "192.168.0.11" {
		t.Errorf("the packet left with source %s", src)
	}
	wide := ocicat(t, l, "trace", "web-0", gateway, "-o", "wide").stdout
	if !strings.Contains(wide, "natOutgoing: source becomes 192.168.0.11") || strings.Contains(wide, "✗") {
		t.Errorf("trace prints:\n%s", wide)
	}
	healthy(t, l, "web-0", "web-1")

	healthy(t, l, "web-0", "web-1")

	setNAT(t, l, false)
	r, code = traced(t, l, "web-0", gateway, "--timeout", "1s")
	if src := seenOutside(t, r); src != r.From.Addr.String() {
		t.Errorf("without natOutgoing the packet left with source %s", src)
	}
	if code != cli.ExitProblems || len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, "no reply from "+gateway) || !strings.Contains(r.Findings[0].Remedy, "natOutgoing: true") {
		t.Errorf("without natOutgoing: exit %d, findings %+v", code, r.Findings)
	}
	healthy(t, l, "web-0", "web-1")
}

// seenOutside is the source the request was captured with on the uplink.
func seenOutside(t *testing.T, r result) string {
	t.Helper()
	for _, f := range r.Captured {
		if !f.Reply && f.Dev == "ens160" && f.At == (trace.Place{Node: master}) {
			return f.Src.String()
		}
	}
	t.Errorf("no frame on the uplink: %+v", r.Captured)
	return ""
}
