// SPDX-License-Identifier: Apache-2.0

package cniserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// TestHostileRequestsAreRefused sends what a plugin never would. None reaches
// the handler, none costs the server a descriptor.
func TestHostileRequestsAreRefused(t *testing.T) {
	chaos.Begin(t, "A13", "requests that are no JSON, too long, of wrong shape, with wrong descriptors", "an error each, the server lives").
		Measuredf("every one refused")
	ns := nstest.New(t)
	plain, err := os.Open("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	host := hostNetNS(t)
	unserved := func() { t.Error("a hostile request was served") }
	client := start(t, &handler{
		add: func(context.Context, cniwire.AddRequest) (cniwire.AddResult, error) {
			unserved()
			return cniwire.AddResult{}, nil
		},
		del:    func(context.Context, cniwire.DelRequest) error { unserved(); return nil },
		check:  func(context.Context, cniwire.CheckRequest) error { unserved(); return nil },
		gc:     func(context.Context, cniwire.GCRequest) error { unserved(); return nil },
		status: func(context.Context) error { unserved(); return nil },
	})
	before := descriptors(t)
	add := encoded(t, cniwire.Request{V: 1, Deadline: later(), Add: new(addRequest(ns, "a"))})
	check := encoded(t, cniwire.Request{V: 1, Deadline: later(), Check: new(checkRequest(ns, "a"))})
	gc := encoded(t, cniwire.Request{V: 1, Deadline: later(), GC: &cniwire.GCRequest{Network: "n"}})
	del := encoded(t, cniwire.Request{V: 1, Deadline: later(), Del: new(delRequest("a"))})
	for _, attack := range []struct {
		name, want string
		frame      []byte
		fds        []int
	}{
		{"no descriptor", "carries no network namespace", add, nil},
		{"two descriptors", "more than one file descriptor", add, []int{ns.FD(), ns.FD()}},
		{"many descriptors", "more than one file descriptor", add, many(ns.FD())},
		{"a plain file", "is not a namespace", add, []int{int(plain.Fd())}},
		{"the host's namespace", "is the host's own network namespace", add, []int{int(host.Fd())}},
		{"a descriptor with DEL", "carries a file descriptor", del, []int{ns.FD()}},
		{"CHECK without descriptor", "carries no network namespace", check, nil},
		{"CHECK of the host's namespace", "is the host's own network namespace", check, []int{int(host.Fd())}},
		{"a descriptor with GC", "carries a file descriptor", gc, []int{ns.FD()}},
		{"no JSON", "decode frame", framed("{"), nil},
		{"no JSON and a descriptor", "decode frame", framed("{"), []int{ns.FD()}},
		{"length beyond bounds", "frame announces", binary.BigEndian.AppendUint32(nil, 1<<30), nil},
		{"length beyond bounds and a descriptor", "frame announces", binary.BigEndian.AppendUint32(nil, 1<<30), []int{ns.FD()}},
		{"deep nesting", "decode frame", framed(strings.Repeat("[", 60000)), nil},
		{"another version", "protocol version 9", framed(`{"v":9,"status":{"network":"n"}}`), nil},
		{"a path as container id", "container id", framed(`{"v":1,"deadline":9,"del":{"containerID":"../x","ifName":"eth0","network":"n"}}`), nil},
	} {
		conn := dial(t, client.Path)
		sendRaw(t, conn, attack.frame, attack.fds...)
		err := answer(t, conn)
		if err == nil || !strings.Contains(err.Error(), attack.want) {
			t.Errorf("%s: %v, want …%s…", attack.name, err, attack.want)
		}
		if kind := fault.KindOf(err); kind != fault.Invalid && kind != fault.Unsupported {
			t.Errorf("%s: kind %v", attack.name, kind)
		}
		conn.Close()
	}
	waitFor(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
}

func TestPluginThatGoesAwayHalfWay(t *testing.T) {
	ns := nstest.New(t)
	client := start(t, &handler{add: func(context.Context, cniwire.AddRequest) (cniwire.AddResult, error) {
		t.Error("half a request was served")
		return cniwire.AddResult{}, nil
	}})
	before := descriptors(t)
	frame := encoded(t, cniwire.Request{V: 1, Deadline: later(), Add: new(addRequest(ns, "a"))})
	for cut := 1; cut < len(frame); cut += 7 {
		conn := dial(t, client.Path)
		sendRaw(t, conn, frame[:cut], ns.FD())
		conn.Close()
	}
	waitFor(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
}

// TestOnlyRootIsServed opens the socket's mode up, as a careless operator
// might: another user can then connect, and is refused all the same.
func TestOnlyRootIsServed(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "ocicat-cni")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "cni.sock")
	run(t, path, &handler{del: func(context.Context, cniwire.DelRequest) error {
		t.Error("another user was served")
		return nil
	}})
	for file, mode := range map[string]os.FileMode{dir: 0o755, path: 0o666} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	refused := make(chan error, 1)
	go func() {
		// The thread is never unlocked: no other goroutine may run as nobody.
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			refused <- errno
			return
		}
		refused <- cniwire.Client{Path: path, Timeout: patience}.Del(delRequest("a"))
	}()
	if err := receive(t, refused); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "of user 65534 may not use this socket") {
		t.Errorf("Del as nobody = %v, want Invalid", err)
	}
}

// FuzzRead has the server read whatever bytes there are, cut into two sends.
func FuzzRead(f *testing.F) {
	f.Add(framed(`{"v":1,"deadline":9223372036854775807,"status":{"network":"n"}}`), 3)
	f.Add(framed(`{"v":1,"deadline":-9223372036854775808,"del":{"containerID":"a","ifName":"eth0","network":"n"}}`), 5)
	f.Add(framed(`{"v":1,"deadline":1,"add":{"containerID":"a","ifName":"eth0","network":"n"}}`), 0)
	f.Add(framed(`{"v":1,"deadline":1,"check":{"containerID":"a","ifName":"eth0","network":"n","prev":{"addresses":["172.16.196.1/32"]}}}`), 9)
	f.Add(framed(`{"v":1,"deadline":1,"gc":{"network":"n","valid":[{"containerID":"a","ifName":"eth0"}]}}`), 4)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(f.TempDir(), "sock"), Net: "unix"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { listener.Close() })
	f.Fuzz(func(t *testing.T, bytes []byte, cut int) {
		bytes = bytes[:min(len(bytes), 100_000)] // what a socket holds unread
		cut = min(max(cut, 0), len(bytes))
		plugin := dial(t, listener.Addr().String())
		conn, err := listener.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if cut > 0 {
			sendRaw(t, plugin, bytes[:cut])
		}
		if cut < len(bytes) {
			sendRaw(t, plugin, bytes[cut:], 0)
		}
		plugin.CloseWrite()
		req, netns, err := read(conn)
		if netns != nil {
			netns.Close()
		}
		if err == nil && req.Validate() != nil {
			t.Errorf("read, but %v", req.Validate())
		}
	})
}

func answer(t *testing.T, conn *net.UnixConn) error {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	frame, err := io.ReadAll(conn)
	if err != nil && len(frame) == 0 {
		return fmt.Errorf("no answer: %w", err)
	}
	a, err := cniwire.DecodeAnswer(frame)
	if err != nil || a.Error == nil {
		return err
	}
	return a.Error.Err()
}

func encoded(t *testing.T, req cniwire.Request) []byte {
	t.Helper()
	frame, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func framed(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func many(fd int) []int {
	fds := make([]int, 200)
	for i := range fds {
		fds[i] = fd
	}
	return fds
}

func hostNetNS(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
