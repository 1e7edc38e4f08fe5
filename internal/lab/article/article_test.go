// SPDX-License-Identifier: Apache-2.0

package article

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/trace"
)

// The values here and the article's own output agree.
func TestValuesStandInTheArticle(t *testing.T) {
	text, err := os.ReadFile("../../../test/article/testdata/article.txt")
	if err != nil {
		t.Fatal(err)
	}
	article := strings.Join(strings.Fields(string(text)), " ")
	has := func(what string) {
		t.Helper()
		if !strings.Contains(article, what) {
			t.Errorf("the article does not print %q", what)
		}
	}
	for _, route := range Routes(Master, Coredns) {
		has(route)
	}
	for _, route := range Routes(Worker, Coredns) {
		dst, _, _ := strings.Cut(strings.Fields(strings.TrimPrefix(route, "blackhole "))[0], "/")
		if dst == "default" {
			dst = "0.0.0.0 192.168.0.2"
		}
		has(dst)
	}
	for _, p := range Pods() {
		has(p.Addr.String())
		has(p.HostIf)
	}
	for _, w := range []Walk{AcrossHosts(), SameHost()} {
		has(fmt.Sprintf("seq=0 ttl=%d", w.PingTTL))
		for _, f := range w.Frames {
			has(fmt.Sprintf("%s > %s, ethertype IPv4 (0x0800), length %d: (tos 0x0, ttl %d,", f.SrcMAC, f.DstMAC, f.Length, f.TTL))
		}
	}
}

func TestMissing(t *testing.T) {
	w := SameHost()
	if missing := w.Missing(w.Frames); len(missing) > 0 {
		t.Errorf("of all frames are missing: %v", missing)
	}
	changed := append([]trace.Frame(nil), w.Frames...)
	changed[1].TTL--
	if missing := w.Missing(changed); len(missing) != 1 || missing[0] != w.Frames[1] {
		t.Errorf("one frame differs, missing: %v", missing)
	}
}
