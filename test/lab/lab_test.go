// SPDX-License-Identifier: Apache-2.0

// Package lab tests labs as their user has them: the program ocicat, started,
// interrupted and killed.
package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// patience is how long a command may take before the test gives up on it.
const patience = 2 * time.Minute

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// user is somebody at a terminal with a lab's name in mind.
type user struct {
	t    *testing.T
	bin  string
	name string
}

func newUser(t *testing.T) user {
	t.Helper()
	nstest.RequireRoot(t)
	bin := labtest.Build(t)
	u := user{t, bin, fmt.Sprintf("u%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)}
	t.Cleanup(func() {
		_ = exec.Command(filepath.Join(bin, "ocicat"), "lab", "down", "--name", u.name).Run() // mostly there is nothing left
		if rest := u.remains(); rest != "" {
			t.Errorf("left over:\n%s", rest)
		}
	})
	return u
}

// command is "ocicat lab" with args on the user's lab.
func (u user) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(u.t.Context(), patience)
	u.t.Cleanup(cancel)
	argv := append([]string{"lab", args[0], "--name", u.name}, args[1:]...)
	return exec.CommandContext(ctx, filepath.Join(u.bin, "ocicat"), argv...)
}

// run runs "ocicat lab" and returns what it printed and its exit code.
func (u user) run(args ...string) (stdout, stderr string, code int) {
	u.t.Helper()
	var out, errs bytes.Buffer
	cmd := u.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		u.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (u user) must(args ...string) string {
	u.t.Helper()
	out, errs, code := u.run(args...)
	if code != 0 {
		u.t.Fatalf("ocicat lab %v: exit %d\n%s%s", args, code, out, errs)
	}
	return out
}

// endAt starts "ocicat lab" and sends it sig as soon as it prints a line that
// holds text, then waits for its end. It returns the exit code, -1 after a
// death by signal.
func (u user) endAt(text string, sig syscall.Signal, args ...string) int {
	u.t.Helper()
	cmd := u.command(args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		u.t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	sent := false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if !sent && strings.Contains(lines.Text(), text) {
			sent = true
			if err := cmd.Process.Signal(sig); err != nil {
				u.t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait()
	if !sent {
		u.t.Fatalf("ocicat lab %v never printed %q\n%s", args, text, errs.String())
	}
	return cmd.ProcessState.ExitCode()
}

// remains lists what of the lab is on this machine.
func (u user) remains() string {
	var found []string
	for _, pattern := range []string{"/run/netns/" + u.name + ".*", "/run/ocicat-lab/" + u.name + "*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			u.t.Fatal(err)
		}
		found = append(found, files...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		u.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, u.name) {
			found = append(found, line)
		}
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		u.t.Fatal(err)
	}
	for _, file := range environs {
		if env, err := os.ReadFile(file); err == nil && strings.Contains(string(env), "OCICAT_LAB_MEMBER="+u.name+"\x00") {
			found = append(found, file)
		}
	}
	return strings.Join(found, "\n")
}

func TestDemo(t *testing.T) {
	u := newUser(t)
	out := u.must("demo")
	for _, want := range []string{
		"Every value above equals the article's",
		"12 frames captured, reply with ttl 62",
		"8 frames captured, reply with ttl 63",
		"blackhole 172.16.196.0/26 proto bird",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("demo did not print %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "✗") || strings.Contains(out, "\x1b") {
		t.Errorf("demo printed a cross, or colours into a pipe:\n%s", out)
	}
	if rest := u.remains(); rest != "" {
		t.Errorf("the demo left:\n%s", rest)
	}
}

// An interrupted demo fails and cleans up, wherever it is interrupted.
func TestDemoInterrupted(t *testing.T) {
	for _, step := range []string{"nodes", "datastore", "agents", "bgp", "state"} {
		t.Run(step, func(t *testing.T) {
			u := newUser(t)
			if code := u.endAt(" "+step+" ", syscall.SIGINT, "demo"); code <= 0 {
				t.Errorf("exit code %d, want an error's", code)
			}
			if rest := u.remains(); rest != "" {
				t.Errorf("the demo left:\n%s", rest)
			}
		})
	}
}

// A killed up is completed by the next one, or removed by down.
func TestUpKilled(t *testing.T) {
	for _, step := range []string{"nodes", "datastore", "history", "agents", "bgp"} {
		t.Run(step, func(t *testing.T) {
			u := newUser(t)
			u.endAt(" "+step+" ", syscall.SIGKILL, "up")
			u.must("up")
			if out := u.must("status"); !strings.Contains(out, "172.16.196.1 ") || !strings.Contains(out, "172.16.109.66 ") {
				t.Errorf("the pods lack the article's addresses:\n%s", out)
			}
			u.must("exec", "fv298", "--", "busybox", "ping", "-c", "1", "-W", "5", "172.16.109.65")
			u.endAt(" agents ", syscall.SIGKILL, "up")
			u.must("down")
			if rest := u.remains(); rest != "" {
				t.Errorf("down left:\n%s", rest)
			}
		})
	}
}

func TestCommands(t *testing.T) {
	u := newUser(t)
	if _, errs, code := u.run("status"); code != 4 || !strings.Contains(errs, "hint:") {
		t.Errorf("status of no lab: exit %d\n%s", code, errs)
	}
	u.must("up", "--nodes", "3", "--no-pods")
	for _, step := range []struct {
		args []string
		code int
		want string // in either output
	}{
		{[]string{"status"}, 0, "k8s-node-2    192.168.0.13"},
		{[]string{"status", "-o", "json"}, 0, `"state": "ready"`},
		{[]string{"list"}, 0, u.name},
		{[]string{"pod", "add", "shop/web-0", "--node", "k8s-node-2"}, 0, "shop/web-0  172.16.140.65  k8s-node-2  cali"},
		{[]string{"pod", "add", "web-1"}, 0, "default/web-1  172.16.196.1  k8s-master-1  cali"},
		{[]string{"pod", "add", "web-1"}, 5, "hint:"},
		{[]string{"pod", "add", "Web"}, 2, "hint:"},
		{[]string{"pod", "add", "x", "--ip", "1.2.3"}, 2, "--ip"},
		{[]string{"exec", "web-1", "--", "busybox", "ping", "-c", "1", "-W", "5", "172.16.140.65"}, 0, "ttl=62"},
		{[]string{"exec", "web-1", "--", "sh", "-c", "exit 42"}, 42, ""},
		{[]string{"exec", "web-7", "--", "true"}, 4, "hint:"},
		{[]string{"node", "k8s-node-2", "--", "hostname"}, 0, "k8s-node-2"},
		{[]string{"node", "k8s-node-2", "ip", "-br", "link"}, 0, "ens160"},
		{[]string{"node", "k8s-node-9", "--", "true"}, 4, "k8s-node-2"},
		{[]string{"kill", "k8s-node-1"}, 0, "killed"},
		{[]string{"status"}, 10, "dead"},
		{[]string{"up", "--nodes", "3", "--no-pods"}, 0, "3 × ocicatd ready"},
		{[]string{"status"}, 0, "default/web-1"},
		{[]string{"restart", "k8s-node-1"}, 0, "restarted"},
		{[]string{"up"}, 5, "another topology"},
		{[]string{"up", "--nodes", "0"}, 2, "--nodes"},
		{[]string{"pod", "del", "web-1"}, 0, "default/web-1 deleted"},
		{[]string{"pod", "del", "web-1"}, 4, "hint:"},
		{[]string{"down"}, 0, "removed"},
		{[]string{"down"}, 4, "nothing"},
	} {
		out, errs, code := u.runWords(step.args)
		if code != step.code || !strings.Contains(out+errs, step.want) {
			t.Errorf("ocicat lab %s: exit %d, want %d and %q:\n%s%s", strings.Join(step.args, " "), code, step.code, step.want, out, errs)
		}
	}
}

// runWords is run for commands of two words too.
func (u user) runWords(args []string) (stdout, stderr string, code int) {
	u.t.Helper()
	if args[0] == "pod" {
		return u.run(append([]string{"pod"}, args[1:]...)...)
	}
	return u.run(args...)
}

// A demo whose cluster is not the article's says what differs, and fails. Here
// the agent of each node comes with a route nobody asked for.
func TestDemoNoticesADifference(t *testing.T) {
	u := newUser(t)
	wrong := t.TempDir()
	for _, name := range []string{"ocicat-cni", "ocicat-etcd"} {
		if err := os.Symlink(filepath.Join(u.bin, name), filepath.Join(wrong, name)); err != nil {
			t.Fatal(err)
		}
	}
	script := "#!/bin/sh\nip route add 198.51.100.0/24 dev ens160 scope link && exec " + filepath.Join(u.bin, "ocicatd") + "\n"
	if err := os.WriteFile(filepath.Join(wrong, "ocicatd"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	out, errs, code := u.run("demo", "--bin-dir", wrong)
	for _, node := range []string{"k8s-master-1", "k8s-node-1"} {
		if want := "not as in the article: unexpected route on " + node + ": 198.51.100.0/24 dev ens160 scope link"; !strings.Contains(errs, want) {
			t.Errorf("demo did not say %q:\n%s", want, errs)
		}
	}
	if code != 10 || strings.Contains(out, "Every value") {
		t.Errorf("exit code %d, want 10:\n%s", code, out)
	}
	if rest := u.remains(); rest != "" {
		t.Errorf("the demo left:\n%s", rest)
	}
}

// A demo that is not allowed what it needs says so before it makes anything.
func TestDemoWithoutRights(t *testing.T) {
	u := newUser(t)
	if err := os.Chmod(u.bin, 0o755); err != nil { // made for root alone
		t.Fatal(err)
	}
	for _, c := range []struct {
		drop string
		code int
		want string
	}{
		{"--reuid=65534", 3, "with sudo"},
		{"--bounding-set=-sys_admin", 7, "--privileged"},
	} {
		cmd := exec.Command("setpriv", append([]string{c.drop}, u.command("demo").Args...)...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("demo with %s: %v, want exit %d and %q:\n%s", c.drop, err, c.code, c.want, out)
		}
	}
}
