// SPDX-License-Identifier: Apache-2.0

// Package article holds the source article as a test: every command it runs,
// run in a lab, and every line it prints, compared.
package article

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// patience is how long a command's output may take to become the article's: a
// neighbour entry ages before it is STALE.
const patience = 30 * time.Second

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

func TestArticle(t *testing.T) {
	text, err := os.ReadFile("testdata/article.txt")
	if err != nil {
		t.Fatal(err)
	}
	sections := parse(t, string(text))
	l := labtest.Up(t, 2, lab.ArticlePods(2), func(topology *lab.Topology) { topology.PermGateway = false })
	// So that the pod's entry for its gateway becomes STALE within 6 s, not 45.
	run(t, l, "pod busybox-77649b9c55-fv298", "busybox", "sh", "-c",
		"cd /proc/sys/net/ipv4/neigh/eth0 && echo 4000 > base_reachable_time_ms && echo 1 > delay_first_probe_time")
	for _, s := range sections {
		t.Run(s.name(), func(t *testing.T) {
			if dev, pod, target, ok := s.capture(); ok {
				s.compare(t, capture(t, l, s.where, dev, pod, target))
				return
			}
			if strings.Contains(s.command, " ping ") { // once: its numbers are part of the output
				s.compare(t, run(t, l, s.where, strings.Fields(s.command)...))
				return
			}
			deadline := time.Now().Add(patience)
			nstest.Eventually(t, patience+time.Second, func() bool {
				got := run(t, l, s.where, strings.Fields(s.command)...)
				if time.Now().After(deadline) {
					s.compare(t, got)
					return true
				}
				return s.differences(got) == nil
			})
		})
	}
}

// run runs a command at a place as the test file names it: a node, or "pod"
// and a pod's name.
func run(t *testing.T, l *labtest.Lab, where string, argv ...string) string {
	t.Helper()
	var out bytes.Buffer
	std := lab.Streams{Out: &out, Err: &out}
	exec := l.ExecNode
	if pod, ok := strings.CutPrefix(where, "pod "); ok {
		exec, where = l.ExecPod, pod
	}
	if code, err := exec(t.Context(), where, argv, std); err != nil || code != 0 {
		t.Fatalf("%s: %v: exit %d, %v\n%s", where, argv, code, err, out.String())
	}
	return out.String()
}

// section is one command and the lines the article prints for it.
type section struct {
	where, command string
	line           int
	want           []expected
}

// expected is one line of the test file.
type expected struct {
	mark byte // ' ' in both, '-' in the article only, '+' in the lab only
	text string
}

func (s section) name() string { return strings.ReplaceAll(s.where+" "+s.command, "/", "_") }

// capture says whether the section is frames: on which device, while which
// pod pings which address.
func (s section) capture() (dev, pod, target string, ok bool) {
	words := strings.Fields(s.command)
	if len(words) != 7 || words[0] != "tcpdump" || words[3] != "while" || words[5] != "pings" {
		return "", "", "", false
	}
	return words[2], words[4], words[6], true
}

// parse reads the test file.
func parse(t *testing.T, text string) []section {
	t.Helper()
	var sections []section
	for i, line := range strings.Split(text, "\n") {
		head, isHead := strings.CutPrefix(line, "== ")
		switch {
		case isHead:
			where, command, ok := strings.Cut(head, ": ")
			if !ok {
				t.Fatalf("line %d: no place and command", i+1)
			}
			sections = append(sections, section{where: where, command: command, line: i + 1})
		case len(sections) == 0 || squeeze(line) == "":
			continue
		default:
			e := expected{' ', squeeze(line)}
			if line[0] == '-' && line[1] == ' ' || line[0] == '+' {
				body, reason, _ := strings.Cut(line[1:], "    # ")
				if reason == "" {
					t.Fatalf("line %d: no reason for a difference", i+1)
				}
				e = expected{line[0], squeeze(body)}
			}
			s := &sections[len(sections)-1]
			s.want = append(s.want, e)
		}
	}
	if len(sections) < 15 {
		t.Fatalf("only %d sections", len(sections))
	}
	return sections
}

// squeeze makes every run of white space one space.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// compare fails the test if got is not what the section says.
func (s section) compare(t *testing.T, got string) {
	t.Helper()
	if diff := s.differences(got); diff != nil {
		t.Errorf("article.txt:%d: %s\nall it printed:\n%s", s.line, strings.Join(diff, "\n"), got)
	}
}

// differences compares line by line; the order counts but in an ARP table,
// which is printed as the kernel hashes it.
func (s section) differences(got string) []string {
	var lines, want, diff []string
	for line := range strings.Lines(got) {
		if line = squeeze(line); line != "" {
			lines = append(lines, line)
		}
	}
	for _, e := range s.want {
		if e.mark != '-' {
			want = append(want, e.text)
		} else if slices.ContainsFunc(lines, pattern(e.text).MatchString) {
			diff = append(diff, "marked as left out, but printed: "+e.text)
		}
	}
	if strings.Contains(s.command, "arp ") {
		slices.Sort(lines)
		slices.Sort(want)
	}
	for i := range max(len(lines), len(want)) {
		switch {
		case i >= len(lines):
			diff = append(diff, "missing: "+want[i])
		case i >= len(want):
			diff = append(diff, "unexpected: "+lines[i])
		case !pattern(want[i]).MatchString(lines[i]):
			diff = append(diff, "got:  "+lines[i]+"\nwant: "+want[i])
		}
	}
	return diff
}

// pattern is a line in which … stands for anything.
func pattern(line string) *regexp.Regexp {
	parts := strings.Split(line, "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}
