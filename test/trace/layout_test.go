// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cli"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/test/labtest"
)

var update = flag.Bool("update", false, "rewrite the golden files; commit only what you understand")

// patience is how long the output may take to become the expected one: agents
// publish their state behind what they do.
const patience = 15 * time.Second

// varying are the parts of outputs that differ from run to run, and what
// stands for them in the golden files. Columns behind them move.
var varying = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`v\d+\.\d+\.\d+\S*|\(devel\)|devel\S*`), "VERSION"},
	{regexp.MustCompile(`\b(\d+m)?\d+s\b`), "AGE"},
	{regexp.MustCompile(`rtt \d+\.\d+ ms`), "rtt RTT"},
	{regexp.MustCompile(`(ens160 +)\d+( +)\d+ MiB`), "${1}HELD${2}MEMORY"},
	{regexp.MustCompile(`k8s-pod-network\.[0-9a-f]{64}`), "HANDLE"},
	{regexp.MustCompile(`(ocicat.net/boot: ).*`), "${1}BOOT"},
	{regexp.MustCompile(`(ocicat.net/instance: ).*`), "${1}INSTANCE"},
	{regexp.MustCompile(`(timestamp: ).*`), "${1}TIME"},
}

func steady(text string) string {
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.text)
	}
	if strings.Contains(text, "VERSION") || strings.Contains(text, "AGE") {
		text = columnGaps.ReplaceAllString(text, "  ") // columns are as wide as what varies in them
	}
	return text
}

var columnGaps = regexp.MustCompile(` {2,}`)

// TestLayout compares what people read, as it is printed into a pipe: without
// colours.
func TestLayout(t *testing.T) {
	l := labtest.Up(t, 2, lab.ArticlePods(2), nil)
	for _, test := range []struct{ name, command string }{
		{"status", "status"},
		{"status-name", "status -o name"},
		{"status-wide", "status -o wide"},
		{"status-node", "status --node k8s-node-1"},
		{"bgp-peers", "bgp peers"},
		{"bgp-peers-down", "bgp peers --down"},
		{"bgp-routes", "bgp routes"},
		{"bgp-routes-prefix", "bgp routes 172.16.109.65 --node k8s-master-1"},
		{"bgp-routes-why", "bgp routes --why"},
		{"ipam-show", "ipam show"},
		{"ipam-show-blocks", "ipam show --show-blocks"},
		{"ipam-show-ip", "ipam show --ip 172.16.196.1"},
		{"ipam-show-held", "ipam show --ip 172.16.196.3"},
		{"ipam-show-free", "ipam show --ip 172.16.196.60"},
		{"trace", "trace devops/busybox-77649b9c55-fv298 devops/busybox-77649b9c55-s7zfv"},
		{"trace-wide", "trace busybox-77649b9c55-s7zfv jenkins-56b6774bb6-d8v8b -o wide"},
		{"trace-no-send", "trace 172.16.196.1 172.16.109.65 --no-send"},
		{"trace-yaml", "trace 172.16.196.1 172.16.109.65 --no-send -o yaml"},
	} {
		t.Run(test.name, func(t *testing.T) { golden(t, l, test.name, test.command, cli.ExitOK) })
	}
	killAgents(t, l)
	l.Node(node1, "ip route del "+masterBlock)
	golden(t, l, "trace-broken", "trace 172.16.196.1 172.16.109.65", cli.ExitProblems)
	l.Node(node1, "ip route add "+masterBlock+" via 192.168.0.11 proto bird")
	l.Node(node1, "sysctl -qw net.ipv4.conf."+receiverIf+".proxy_arp=0")
	golden(t, l, "trace-deviation", "trace 172.16.196.1 172.16.109.65", cli.ExitProblems)
	t.Run("colours", func(t *testing.T) { colours(t, l) })
}

// colours has a trace with a finding printed on a terminal.
func colours(t *testing.T, l *labtest.Lab) {
	for _, test := range []struct {
		env, flag string
		coloured  bool
	}{{"", "--no-send", true}, {"NO_COLOR=1", "--no-send", false}, {"", "--no-color", false}} {
		terminal, screen := newTerminal(t)
		cmd := exec.Command(filepath.Join(l.Bin, "ocicat"), "--lab", l.Name(), "trace", "172.16.196.1", "172.16.109.65", test.flag)
		cmd.Env = append(os.Environ(), "OCICAT_LAB_DIR="+l.Root, test.env)
		cmd.Stdout = screen
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != cli.ExitProblems {
			t.Fatal(err)
		}
		screen.Close()
		text, _ := io.ReadAll(terminal) // ends with EIO when nobody has the terminal open
		if got := strings.Contains(string(text), "\x1b["); got != test.coloured || !strings.Contains(string(text), "proxy_arp is 0") {
			t.Errorf("%s %s: coloured %v, want %v\n%q", test.env, test.flag, got, test.coloured, text)
		}
	}
}

// newTerminal makes a pseudo-terminal: what is written to screen can be read
// from terminal.
func newTerminal(t *testing.T) (terminal, screen *os.File) {
	t.Helper()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	fd := int(terminal.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return terminal, screen
}

// golden compares what a command prints with its golden file.
func golden(t *testing.T, l *labtest.Lab, name, command string, code int) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	want, err := os.ReadFile(file)
	if err != nil && !*update {
		t.Fatal(err)
	}
	var got string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		o := ocicat(t, l, strings.Fields(command)...)
		if got = steady(o.stdout); o.code == code && o.stderr == "" && (got == string(want) || *update) {
			break
		}
		if o.code != code || o.stderr != "" {
			got += o.stderr
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("ocicat %s (-want +got):\n%s", command, diff)
	}
}
