// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cniserver"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/journal/tombstone"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// bin is where TestMain put ocicat-cni and cnitool.
var bin string

// TestMain builds the programs as a release does; the tests execute them.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ocicat-cni")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	code := 1
	if err := build("github.com/ocicat-net/ocicat/cmd/ocicat-cni", "github.com/containernetworking/cni/cnitool"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build(packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", bin + "/"}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w\n%s", packages, err, out)
	}
	return nil
}

func TestAddPrintsTheResult(t *testing.T) {
	chaos.Begin(t, "A14", "ADD in each version", "the exact text").
		Measuredf("4 of 4 versions")
	ns := nstest.New(t)
	agent := startAgent(t)
	const ips04 = `"ips":[{"version":"4","address":"172.16.196.1/32","interface":1}],"dns":{}}`
	for version, want := range map[string]string{
		"0.3.1": `{"cniVersion":"0.3.1","interfaces":[{"name":"cali1dadcdd5b31","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","mac":"0e:1c:2c:f6:2a:f9","sandbox":"NETNS"}],` + ips04,
		"0.4.0": `{"cniVersion":"0.4.0","interfaces":[{"name":"cali1dadcdd5b31","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","mac":"0e:1c:2c:f6:2a:f9","sandbox":"NETNS"}],` + ips04,
		"1.0.0": `{"cniVersion":"1.0.0","interfaces":[{"name":"cali1dadcdd5b31","mac":"ee:ee:ee:ee:ee:ee"},{"name":"eth0","mac":"0e:1c:2c:f6:2a:f9","sandbox":"NETNS"}],` +
			`"ips":[{"address":"172.16.196.1/32","interface":1}],"dns":{}}`,
		"1.1.0": `{"cniVersion":"1.1.0","interfaces":[{"name":"cali1dadcdd5b31","mac":"ee:ee:ee:ee:ee:ee","mtu":1500},{"name":"eth0","mac":"0e:1c:2c:f6:2a:f9","mtu":1500,"sandbox":"NETNS"}],` +
			`"ips":[{"address":"172.16.196.1/32","interface":1}],"dns":{}}`,
	} {
		out, code := agent.exec(t, "ADD", version, "CNI_NETNS="+ns.Path(), "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=devops;K8S_POD_NAME=busybox")
		got := strings.ReplaceAll(strings.TrimSpace(out), ns.Path(), "NETNS")
		if diff := cmp.Diff(want, got); diff != "" || code != 0 {
			t.Errorf("ADD %s exits with %d (-want +got):\n%s", version, code, diff)
		}
	}
	want := cniwire.AddRequest{
		ID: cniwire.ID{ContainerID: "0123abcd", IfName: "eth0"}, Network: "k8s-pod-network", NetNSPath: ns.Path(),
		Pod: cniwire.Pod{Namespace: "devops", Name: "busybox"},
	}
	for _, got := range agent.added() {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the agent was asked (-want +got):\n%s", diff)
		}
	}
}

func TestDelStatusAndVersion(t *testing.T) {
	agent := startAgent(t)
	for _, env := range []string{"CNI_NETNS=", "CNI_NETNS=/gone", "CNI_NETNS=/proc/self/ns/net", "CNI_NETNS=" + strings.Repeat("/x", 4000)} {
		if out, code := agent.exec(t, "DEL", "1.0.0", env); code != 0 || strings.TrimSpace(out) != "" {
			t.Errorf("DEL with %.40s exits with %d: %s", env, code, out)
		}
	}
	if out, code := agent.exec(t, "STATUS", "1.1.0", "CNI_CONTAINERID=", "CNI_IFNAME="); code != 0 || strings.TrimSpace(out) != "" {
		t.Errorf("STATUS exits with %d: %s", code, out)
	}
	for _, old := range []struct{ verb, version string }{{"STATUS", "1.0.0"}, {"STATUS", "0.4.0"}, {"GC", "1.0.0"}, {"CHECK", "0.3.1"}} {
		got := agent.fails(t, old.verb, old.version)
		want := failure{old.version, 1, fmt.Sprintf("cniVersion %q has no %s", old.version, old.verb), got.Details}
		if diff := cmp.Diff(want, got); diff != "" || got.Details == "" {
			t.Errorf("%s for %s (-want +got):\n%s", old.verb, old.version, diff)
		}
	}
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		out, code := agent.exec(t, "VERSION", version)
		if want := `{"cniVersion":"` + version + `","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}` + "\n"; out != want || code != 0 {
			t.Errorf("VERSION exits with %d: %s", code, out)
		}
	}
}

func TestAgentsErrorReachesTheRuntime(t *testing.T) {
	agent := startAgent(t)
	exhausted := fault.Hint(fault.New(fault.Exhausted, "assign address for devops/busybox: no free address"), "Add a pool.")
	agent.answer(exhausted)
	want := failure{"1.1.0", 111, "assign address for devops/busybox: no free address", "Add a pool."}
	if diff := cmp.Diff(want, agent.fails(t, "ADD", "1.1.0", "CNI_NETNS="+nstest.New(t).Path())); diff != "" {
		t.Errorf("ADD (-want +got):\n%s", diff)
	}
	if got := agent.fails(t, "DEL", "1.1.0"); got.Code != 111 {
		t.Errorf("DEL = %+v, want the agent's code", got)
	}
	if got := agent.fails(t, "STATUS", "1.1.0"); got.Code != 50 {
		t.Errorf("STATUS = %+v, want code 50", got)
	}
	agent.answer(cniwire.WithCode(cniwire.CodeLimited, exhausted))
	if got := agent.fails(t, "STATUS", "1.1.0"); got.Code != 51 {
		t.Errorf("STATUS = %+v, want code 51", got)
	}
}

func TestUnknownVerbsSaySo(t *testing.T) {
	agent := startAgent(t)
	for _, verb := range []string{"", "add", "FETCH"} {
		if got := agent.fails(t, verb, "1.1.0"); got.Code != 4 || !strings.Contains(got.Msg, "CNI_COMMAND") {
			t.Errorf("%q = %+v, want code 4", verb, got)
		}
	}
}

func TestNetNSMustBeAPods(t *testing.T) {
	chaos.Begin(t, "A10", "path missing, the host's own, another kind of namespace, file, directory, FIFO, link", "code 4 with the reason, the agent is not asked").
		Measuredf("code 4 for 8 of 8 paths, a link to a good one is followed")
	agent := startAgent(t)
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Symlink("/proc/self/ns/net", link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"":                  "CNI_NETNS not set",
		"/run/netns/absent": `CNI_NETNS "/run/netns/absent" cannot be opened: no such file or directory`,
		"/proc/self/ns/net": "is the host's own network namespace",
		"/proc/self/ns/mnt": "is a namespace, but not one of networks",
		"/proc/self/stat":   "is not a namespace",
		dir:                 "is not a namespace",
		fifo:                "is not a namespace",
		link:                "is the host's own network namespace",
	} {
		got := agent.fails(t, "ADD", "1.1.0", "CNI_NETNS="+path)
		if got.Code != 4 || !strings.Contains(got.Msg, want) || got.Details == "" {
			t.Errorf("ADD with CNI_NETNS=%q = %+v\nwant code 4, …%s…", path, got, want)
		}
	}
	if n := len(agent.added()); n != 0 {
		t.Errorf("the agent was asked %d times", n)
	}
	good := filepath.Join(dir, "good")
	if err := os.Symlink(nstest.New(t).Path(), good); err != nil {
		t.Fatal(err)
	}
	if out, code := agent.exec(t, "ADD", "1.1.0", "CNI_NETNS="+good); code != 0 {
		t.Errorf("ADD through a link exits with %d: %s", code, out)
	}
}

func TestHugeStdin(t *testing.T) {
	chaos.Begin(t, "A13", "10 MiB on stdin", "code 6").
		Measuredf("code 6")
	cmd := exec.Command(filepath.Join(bin, "ocicat-cni"))
	cmd.Env = []string{"CNI_COMMAND=ADD"}
	cmd.Stdin = strings.NewReader(strings.Repeat(" ", 10<<20))
	out, err := cmd.Output()
	if got := parseFailure(t, string(out)); err == nil || got.Code != 6 {
		t.Errorf("%v: %+v, want code 6", err, got)
	}
}

// TestAgentAwayIsNoReason: STATUS says nothing against a node whose agent was
// there since the boot, whether it is gone or hangs.
func TestAgentAwayIsNoReason(t *testing.T) {
	r := chaos.Begin(t, "A22", "the agent away, as in an update, after it served pods", "STATUS 0, ADD 11")
	run := t.TempDir()
	away := &agent{socket: filepath.Join(run, "cni.sock")}
	if got := away.fails(t, "STATUS", "1.1.0"); got.Code != 50 {
		t.Errorf("never served: STATUS = %+v, want code 50", got)
	}
	r.Twinf("an agent that never served since the boot: STATUS 50")
	if err := os.WriteFile(filepath.Join(run, cniwire.ServedFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	out, code := away.exec(t, "STATUS", "1.1.0")
	if code != 0 {
		t.Errorf("STATUS exits with %d: %s", code, out)
	}
	r.Measuredf("STATUS %d after %d ms", code, time.Since(begin).Milliseconds())
}

// TestAgentDown: a runtime is told at once, and a DEL is not lost.
func TestAgentDown(t *testing.T) {
	chaos.Begin(t, "A22", "the agent never started, or killed, its socket there", "code 11 in < 1 s, DEL 0, STATUS 50").
		Measuredf("11, 0 and 50, all within 1 s")
	ns := nstest.New(t)
	run := t.TempDir()
	dead := &agent{socket: filepath.Join(run, "cni.sock"), keys: `,"cni.dev/valid-attachments":[]`}
	for _, state := range []string{"never started", "killed"} {
		if state == "killed" {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead.socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
		}
		begin := time.Now()
		if got := dead.fails(t, "ADD", "1.1.0", "CNI_NETNS="+ns.Path()); got.Code != 11 || !strings.HasPrefix(got.Msg, "agent not running on this node") || got.Details == "" {
			t.Errorf("%s: ADD = %+v, want code 11", state, got)
		}
		if got := dead.fails(t, "GC", "1.1.0"); got.Code != 11 {
			t.Errorf("%s: GC = %+v, want code 11", state, got)
		}
		withPrev := &agent{socket: dead.socket, keys: `,"prevResult":{}`}
		if got := withPrev.fails(t, "CHECK", "1.1.0", "CNI_NETNS="+ns.Path()); got.Code != 11 {
			t.Errorf("%s: CHECK = %+v, want code 11", state, got)
		}
		if got := dead.fails(t, "STATUS", "1.1.0"); got.Code != 50 {
			t.Errorf("%s: STATUS = %+v, want code 50", state, got)
		}
		for range 2 {
			if out, code := dead.exec(t, "DEL", "1.1.0"); code != 0 || strings.TrimSpace(out) != "" {
				t.Errorf("%s: DEL exits with %d: %s", state, code, out)
			}
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("%s: took %v, want at once", state, took)
		}
	}
	stones, err := tombstone.List(tombstone.Dir(run))
	if err != nil || len(stones) != 1 || stones[0].ID != (cniwire.ID{ContainerID: "0123abcd", IfName: "eth0"}) {
		t.Errorf("tombstones = %v, %v; want one of 0123abcd/eth0", stones, err)
	}
}

// TestTombstoneThatCannotBeLeft: then a DEL fails, and says both reasons.
func TestTombstoneThatCannotBeLeft(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tombstones"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := (&agent{socket: filepath.Join(dir, "cni.sock")}).fails(t, "DEL", "1.1.0")
	if got.Code != 11 || !strings.Contains(got.Msg, "agent not running") || !strings.Contains(got.Msg, "leave a tombstone") {
		t.Errorf("DEL = %+v, want code 11 and both reasons", got)
	}
}

// TestAgentHung: an agent that is stopped, as by SIGSTOP, still accepts
// connections; it is given five seconds.
func TestAgentHung(t *testing.T) {
	chaos.Begin(t, "A22", "the agent accepts and never answers", "code 11 after 5 s, DEL 0").
		Measuredf("11, 50 and 0 after 5 s")
	ns := nstest.New(t)
	run := t.TempDir()
	hung := &agent{socket: filepath.Join(run, "cni.sock")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hung.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var verbs sync.WaitGroup
	for verb, want := range map[string]uint{"ADD": 11, "STATUS": 50, "DEL": 0} {
		verbs.Go(func() {
			begin := time.Now()
			out, code := hung.exec(t, verb, "1.1.0", "CNI_NETNS="+ns.Path())
			if took := time.Since(begin); took < 5*time.Second || took > 8*time.Second {
				t.Errorf("%s took %v, want 5 s", verb, took)
			}
			if want == 0 && code != 0 {
				t.Errorf("%s exits with %d: %s", verb, code, out)
			}
			if want != 0 && parseFailure(t, out).Code != want {
				t.Errorf("%s = %s, want code %d", verb, out, want)
			}
		})
	}
	verbs.Wait()
	if stones, err := tombstone.List(tombstone.Dir(run)); err != nil || len(stones) != 1 {
		t.Errorf("tombstones = %v, %v; want one", stones, err)
	}
}

// TestConfiguredTimeout: the key timeout shortens the wait.
func TestConfiguredTimeout(t *testing.T) {
	hung := &agent{socket: filepath.Join(t.TempDir(), "cni.sock"), keys: `,"timeout":"200ms"`}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hung.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := time.Now()
	if got := hung.fails(t, "STATUS", "1.1.0"); got.Code != 50 || !strings.Contains(got.Msg, "within 200ms") {
		t.Errorf("STATUS = %+v", got)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %v, want 200 ms", took)
	}
}

// TestRuntimeGone: nobody reads the result; the plugin must not hang, and
// what it did stays for the runtime's DEL.
func TestRuntimeGone(t *testing.T) {
	chaos.Begin(t, "A23", "the runtime closed its end of the pipe before the answer", "exit 1, then DEL 0").
		Measuredf("exit 1, DEL 0")
	agent := startAgent(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := agent.command("ADD", "1.1.0", "CNI_NETNS="+nstest.New(t).Path())
	cmd.Stdout = w
	err = cmd.Run()
	w.Close()
	if err == nil {
		t.Error("the plugin exits with 0 though nobody got its result")
	}
	if out, code := agent.exec(t, "DEL", "1.1.0"); code != 0 {
		t.Errorf("DEL exits with %d: %s", code, out)
	}
}

// BenchmarkExec is the plugin's own share of an ADD, exec to exit: the agent
// behind it answers at once.
func BenchmarkExec(b *testing.B) {
	agent := startAgent(b)
	ns := nstest.New(b)
	for b.Loop() {
		if err := agent.command("ADD", "1.1.0", "CNI_NETNS="+ns.Path()).Run(); err != nil {
			b.Fatal(err)
		}
	}
}

// agent is what the plugin talks to: a real server in front of recorded
// calls, or nothing but a path.
type agent struct {
	socket string
	keys   string // more keys of the network configuration, after a comma

	mu   sync.Mutex
	err  error // what every call answers
	adds []cniwire.AddRequest
	dels []cniwire.DelRequest

	checks []cniwire.CheckRequest
	gcs    []cniwire.GCRequest
}

func startAgent(t testing.TB) *agent {
	t.Helper()
	a := &agent{socket: filepath.Join(t.TempDir(), "cni.sock")}
	server := cniserver.New(a.socket, a, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-server.Ready():
	case <-time.After(10 * time.Second):
		t.Fatal("the server did not start")
	}
	return a
}

func (a *agent) Add(_ context.Context, req cniwire.AddRequest) (cniwire.AddResult, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	req.NetNS = nil
	a.adds = append(a.adds, req)
	return cniwire.AddResult{
		HostIf: "cali1dadcdd5b31", HostMAC: "ee:ee:ee:ee:ee:ee", MAC: "0e:1c:2c:f6:2a:f9", MTU: 1500,
		Addresses: []netip.Prefix{netip.MustParsePrefix("172.16.196.1/32")},
	}, a.err
}

func (a *agent) Del(_ context.Context, req cniwire.DelRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dels = append(a.dels, req)
	return a.err
}

func (a *agent) Check(_ context.Context, req cniwire.CheckRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	req.NetNS = nil
	a.checks = append(a.checks, req)
	return a.err
}

func (a *agent) GC(_ context.Context, req cniwire.GCRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gcs = append(a.gcs, req)
	return a.err
}

func (a *agent) Status(context.Context, cniwire.StatusRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (a *agent) answer(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func (a *agent) added() []cniwire.AddRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.adds
}

func (a *agent) checked() []cniwire.CheckRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.checks
}

func (a *agent) collected() []cniwire.GCRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gcs
}

func (a *agent) deleted() []cniwire.DelRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dels
}

// command is one execution of the plugin, as a runtime does it.
func (a *agent) command(verb, version string, env ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, "ocicat-cni"))
	cmd.Env = append([]string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=0123abcd", "CNI_IFNAME=eth0", "CNI_PATH=" + bin}, env...)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":%q,"name":"k8s-pod-network","type":"ocicat-cni","socket":%q%s}`, version, a.socket, a.keys))
	return cmd
}

// exec runs the plugin and returns its standard output and exit code.
func (a *agent) exec(t *testing.T, verb, version string, env ...string) (string, int) {
	t.Helper()
	cmd := a.command(verb, version, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Errorf("%s: %v", verb, err)
		return "", -1
	}
	if stderr.Len() > 0 {
		t.Errorf("%s wrote to stderr: %s", verb, stderr.String())
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

// failure is the specification's error object.
type failure struct {
	CNIVersion string `json:"cniVersion"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details"`
}

// fails runs the plugin and returns the error it must print.
func (a *agent) fails(t *testing.T, verb, version string, env ...string) failure {
	t.Helper()
	out, code := a.exec(t, verb, version, env...)
	if code != 1 {
		t.Errorf("%s exits with %d, want 1", verb, code)
	}
	return parseFailure(t, out)
}

func parseFailure(t *testing.T, out string) failure {
	t.Helper()
	var f failure
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		t.Errorf("error object: %v in %q", err, out)
	}
	return f
}
