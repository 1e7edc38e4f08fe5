// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
)

// beTheProgram makes the test binary run main instead of the tests.
const beTheProgram = "OCICAT_ETCD_TEST_MAIN=1"

func TestMain(m *testing.M) {
	for _, env := range os.Environ() {
		if env == beTheProgram {
			main()
			return
		}
	}
	os.Exit(m.Run())
}

// server is a running ocicat-etcd.
type server struct {
	cmd    *exec.Cmd
	stderr *bytes.Buffer
}

// start runs the program and waits until it says it is ready.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	s := &server{cmd: exec.Command(os.Args[0], append(args, "--ready-fd", "3")...), stderr: new(bytes.Buffer)}
	s.cmd.Env = append(os.Environ(), beTheProgram)
	s.cmd.Stderr = s.stderr
	s.cmd.ExtraFiles = []*os.File{write}
	err = s.cmd.Start()
	_ = write.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.end(syscall.SIGKILL) })
	if err := read.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(read).ReadString('\n'); line != "ready\n" {
		s.end(syscall.SIGKILL)
		t.Fatalf("ready line %q, %v; its log:\n%s", line, err, s.stderr)
	}
	return s
}

// end signals the program, waits for its end and returns what Wait says.
func (s *server) end(signal syscall.Signal) error {
	_ = s.cmd.Process.Signal(signal)
	return s.cmd.Wait()
}

func connect(t *testing.T, endpoint string) store.Store {
	t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// freePort is a TCP address on loopback nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestServesBothAddressesAndKeepsDataAcrossAKill(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	socket, readyFile := filepath.Join(dir, "etcd.sock"), filepath.Join(dir, "ready")
	tcp, unix := "http://"+freePort(t), "unix://"+socket
	args := []string{"--data-dir", filepath.Join(dir, "data"), "--listen", tcp, "--listen", unix, "--ready-file", readyFile}
	key := store.Key{Kind: store.Node, Name: "a"}

	first := start(t, args...)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 0600", info, err)
	}
	if text, err := os.ReadFile(readyFile); string(text) != "ready\n" {
		t.Errorf("ready file: %q, %v", text, err)
	}
	rev, err := connect(t, tcp).Put(ctx, key, []byte("one"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := connect(t, unix).Get(ctx, key); err != nil || string(e.Value) != "one" || e.Revision != rev {
		t.Errorf("over the socket: %v %q at %d, want what was written over TCP at %d", err, e.Value, e.Revision, rev)
	}
	_ = first.end(syscall.SIGKILL)

	second := start(t, args...)
	if e, err := connect(t, unix).Get(ctx, key); err != nil || string(e.Value) != "one" || e.Revision != rev {
		t.Errorf("after a kill: %v %q at %d, want the same at %d", err, e.Value, e.Revision, rev)
	}
	if err := second.end(syscall.SIGTERM); err != nil {
		t.Errorf("on SIGTERM: %v, want a clean end; its log:\n%s", err, second.stderr)
	}
	if _, err := os.Stat(readyFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ready file after the end: %v, want it gone", err)
	}
}

func TestRefusesTheAddressOfAnother(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = run(t.Context(), []string{"--data-dir", t.TempDir(), "--listen", "http://" + l.Addr().String(), "--unsafe-no-fsync"})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("%v, want the address in use", err)
	}
}

func TestWrongArguments(t *testing.T) {
	for _, args := range [][]string{
		{"--nope"},
		{"start"},
		{"--data-dir", t.TempDir()},
		{"--listen", "unix:///nowhere/s"},
		{"--data-dir", t.TempDir(), "--listen", "localhost:2379"},
		{"--data-dir", t.TempDir(), "--listen", "unix:///nowhere/s", "--log-level", "loud"},
		{"--data-dir", t.TempDir(), "--listen", "unix:///nowhere/s", "--quota", "-1"},
		{"--quota", "much"},
	} {
		err := run(t.Context(), args)
		if !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%q: %v, hint %q, want it invalid with a hint", args, err, fault.HintOf(err))
		}
	}
}
