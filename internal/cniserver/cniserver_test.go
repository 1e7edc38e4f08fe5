// SPDX-License-Identifier: Apache-2.0

package cniserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// patience bounds every wait of a test for something that should happen.
const patience = 10 * time.Second

func TestRequestsReachTheHandlerAndAnswersComeBack(t *testing.T) {
	ns := nstest.New(t)
	seen := make(chan uint64, 1)
	kept := make(chan []cniwire.ID, 1)
	h := &handler{
		add: func(_ context.Context, req cniwire.AddRequest) (cniwire.AddResult, error) {
			seen <- inode(t, req.NetNS)
			return cniwire.AddResult{HostIf: "cali" + req.ContainerID, MTU: 1450}, nil
		},
		check: func(_ context.Context, req cniwire.CheckRequest) error {
			seen <- inode(t, req.NetNS)
			return nil
		},
		gc: func(_ context.Context, req cniwire.GCRequest) error {
			kept <- req.Valid
			return nil
		},
	}
	client := start(t, h)
	result, err := client.Add(addRequest(ns, "a"))
	if err != nil || result.HostIf != "calia" || result.MTU != 1450 {
		t.Errorf("Add = %+v, %v", result, err)
	}
	if got, want := receive(t, seen), inode(t, ns.File()); got != want {
		t.Errorf("handler got namespace %d, want %d", got, want)
	}
	if err := client.Check(checkRequest(ns, "a")); err != nil {
		t.Error(err)
	}
	if got, want := receive(t, seen), inode(t, ns.File()); got != want {
		t.Errorf("handler got namespace %d to check, want %d", got, want)
	}
	if err := client.Del(delRequest("a")); err != nil {
		t.Error(err)
	}
	gc := cniwire.GCRequest{Network: "n"}
	for i := range 1000 { // more than fit one read
		gc.Valid = append(gc.Valid, cniwire.ID{ContainerID: fmt.Sprintf("%064d", i), IfName: "eth0"})
	}
	if err := client.GC(gc); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(gc.Valid, receive(t, kept)); diff != "" {
		t.Errorf("list of the GC (-want +got):\n%s", diff)
	}
	if err := client.Status(cniwire.StatusRequest{Network: "n"}); err != nil {
		t.Error(err)
	}
}

func TestErrorsKeepKindCodeAndHint(t *testing.T) {
	sent := fault.Hint(fault.New(fault.Exhausted, "no free address"), "add a pool")
	h := &handler{
		del:    func(context.Context, cniwire.DelRequest) error { return sent },
		status: func(context.Context) error { return sent },
	}
	client := start(t, h)
	err := client.Del(delRequest("a"))
	if !fault.Is(err, fault.Exhausted) || err.Error() != "no free address" || fault.HintOf(err) != "add a pool" || cniwire.CodeOf(err) != 111 {
		t.Errorf("Del = %v (%v, code %d)", err, fault.KindOf(err), cniwire.CodeOf(err))
	}
	if err := client.Status(cniwire.StatusRequest{Network: "n"}); cniwire.CodeOf(err) != cniwire.CodeUnavailable {
		t.Errorf("Status = %v, code %d; want %d", err, cniwire.CodeOf(err), cniwire.CodeUnavailable)
	}
	client = start(t, &handler{status: func(context.Context) error { return cniwire.WithCode(cniwire.CodeLimited, sent) }})
	if err := client.Status(cniwire.StatusRequest{Network: "n"}); cniwire.CodeOf(err) != cniwire.CodeLimited {
		t.Errorf("Status = %v, code %d; want %d", err, cniwire.CodeOf(err), cniwire.CodeLimited)
	}
}

// TestOneAttachmentIsServedInTurn: while one request of an attachment is
// served the next waits, and those of others pass.
func TestOneAttachmentIsServedInTurn(t *testing.T) {
	chaos.Begin(t, "A19", "requests of one attachment at the server", "one after the other").
		Measuredf("never two at once")
	entered, leave := make(chan string, 10), make(chan struct{})
	h := &handler{del: func(_ context.Context, req cniwire.DelRequest) error {
		entered <- req.String()
		if req.ContainerID == "same" {
			<-leave
		}
		return nil
	}}
	client := start(t, h)
	var calls sync.WaitGroup
	del := func(container string) {
		calls.Go(func() {
			if err := client.Del(delRequest(container)); err != nil {
				t.Errorf("Del %s: %v", container, err)
			}
		})
	}
	del("same")
	expect(t, entered, "same/eth0")
	del("same")
	del("other")
	expect(t, entered, "other/eth0")
	select {
	case id := <-entered:
		t.Errorf("%s was let in while another request of it was served", id)
	default:
	}
	leave <- struct{}{}
	expect(t, entered, "same/eth0")
	leave <- struct{}{}
	calls.Wait()
}

func TestRequestEndsWithItsPlugin(t *testing.T) {
	entered, ended := make(chan string, 1), make(chan error, 1)
	h := &handler{del: func(ctx context.Context, req cniwire.DelRequest) error {
		entered <- req.ContainerID
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}}
	client := start(t, h)
	conn := dial(t, client.Path)
	send(t, conn, cniwire.Request{V: 1, Deadline: later(), Del: new(delRequest("a"))})
	expect(t, entered, "a")
	conn.Close()
	if err := receive(t, ended); !errors.Is(err, errGone) || errors.Is(err, errLate) {
		t.Errorf("cause %v, want that the plugin is gone", err)
	}

	// One that hangs on ends at its deadline.
	conn = dial(t, client.Path)
	send(t, conn, cniwire.Request{V: 1, Deadline: cniwire.Now() + int64(50*time.Millisecond), Del: new(delRequest("b"))})
	expect(t, entered, "b")
	if err := receive(t, ended); !errors.Is(err, errLate) {
		t.Errorf("cause %v, want the deadline", err)
	}
}

func TestLateRequestIsDropped(t *testing.T) {
	h := &handler{del: func(context.Context, cniwire.DelRequest) error {
		t.Error("a request past its deadline was served")
		return nil
	}}
	conn := dial(t, start(t, h).Path)
	send(t, conn, cniwire.Request{V: 1, Deadline: cniwire.Now() - 1, Del: new(delRequest("a"))})
	expectClosed(t, conn)
}

func TestPanicIsAnAnswer(t *testing.T) {
	h := &handler{del: func(context.Context, cniwire.DelRequest) error { panic("oh") }}
	client := start(t, h)
	for range 2 { // the second shows that the attachment's turn was given back
		if err := client.Del(delRequest("a")); !fault.Is(err, fault.Internal) || fault.HintOf(err) == "" {
			t.Errorf("Del = %v, want Internal with a hint", err)
		}
	}
}

// TestStoppingServerSaysSo: requests begun end with an answer to try again,
// and the socket is gone.
func TestStoppingServerSaysSo(t *testing.T) {
	entered := make(chan string, 1)
	h := &handler{del: func(ctx context.Context, req cniwire.DelRequest) error {
		entered <- req.ContainerID
		<-ctx.Done()
		return ctx.Err()
	}}
	path := filepath.Join(t.TempDir(), "cni.sock")
	stop := run(t, path, h)
	client := cniwire.Client{Path: path, Timeout: patience}
	answer := make(chan error, 1)
	go func() { answer <- client.Del(delRequest("a")) }()
	expect(t, entered, "a")
	stop()
	if err := receive(t, answer); !fault.Is(err, fault.Unavailable) || err.Error() != "the agent is stopping" {
		t.Errorf("Del = %v, want Unavailable: the agent is stopping", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the end: %v", err)
	}
}

func TestSocketIsPrivateWhateverTheUmask(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	client := start(t, &handler{})
	info, err := os.Lstat(client.Path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket has mode %v, want srw-------", info.Mode())
	}
}

func TestDeadSocketIsReplacedALivingOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cni.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	stop := run(t, path, &handler{})
	client := cniwire.Client{Path: path, Timeout: patience}
	if err := client.Del(delRequest("a")); err != nil {
		t.Error(err)
	}
	err = New(path, &handler{}, slog.New(slog.DiscardHandler)).Run(t.Context())
	if !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("second server: %v, want Conflict with a hint", err)
	}
	if err := client.Del(delRequest("a")); err != nil {
		t.Errorf("first server after the second's try: %v", err)
	}
	stop()
	run(t, path, &handler{})
	if err := client.Del(delRequest("a")); err != nil {
		t.Errorf("third server: %v", err)
	}
}

func TestPathTooLong(t *testing.T) {
	path := "/tmp/" + fmt.Sprintf("%0100d", 0)
	if err := New(path, &handler{}, slog.New(slog.DiscardHandler)).Run(t.Context()); !fault.Is(err, fault.Invalid) {
		t.Errorf("Run = %v, want Invalid", err)
	}
}

func TestHundredsAtOnce(t *testing.T) {
	ns := nstest.New(t)
	h := &handler{add: func(_ context.Context, req cniwire.AddRequest) (cniwire.AddResult, error) {
		return cniwire.AddResult{HostIf: req.ContainerID}, nil
	}}
	client := start(t, h)
	before := descriptors(t)
	var calls sync.WaitGroup
	for i := range 2 * maxActive {
		calls.Go(func() {
			id := fmt.Sprint("c", i)
			if r, err := client.Add(addRequest(ns, id)); err != nil || r.HostIf != id {
				t.Errorf("Add %s = %+v, %v", id, r, err)
			}
		})
	}
	calls.Wait()
	waitFor(t, "descriptors to be closed", func() bool { return descriptors(t) <= before })
}

// handler is a Handler of functions; a nil one succeeds.
type handler struct {
	add    func(context.Context, cniwire.AddRequest) (cniwire.AddResult, error)
	del    func(context.Context, cniwire.DelRequest) error
	check  func(context.Context, cniwire.CheckRequest) error
	gc     func(context.Context, cniwire.GCRequest) error
	status func(context.Context) error
}

func (h *handler) Add(ctx context.Context, req cniwire.AddRequest) (cniwire.AddResult, error) {
	if h.add == nil {
		return cniwire.AddResult{}, nil
	}
	return h.add(ctx, req)
}

func (h *handler) Del(ctx context.Context, req cniwire.DelRequest) error {
	if h.del == nil {
		return nil
	}
	return h.del(ctx, req)
}

func (h *handler) Check(ctx context.Context, req cniwire.CheckRequest) error {
	if h.check == nil {
		return nil
	}
	return h.check(ctx, req)
}

func (h *handler) GC(ctx context.Context, req cniwire.GCRequest) error {
	if h.gc == nil {
		return nil
	}
	return h.gc(ctx, req)
}

func (h *handler) Status(ctx context.Context, _ cniwire.StatusRequest) error {
	if h.status == nil {
		return nil
	}
	return h.status(ctx)
}

// start runs a server for the rest of the test.
func start(t testing.TB, h Handler) cniwire.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cni.sock")
	run(t, path, h)
	return cniwire.Client{Path: path, Timeout: patience}
}

// run runs a server on path until stop is called or the test ends.
func run(t testing.TB, path string, h Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server := New(path, h, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(t, ended); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-server.Ready():
	case err := <-ended:
		ended <- err
		t.Fatalf("server did not start: %v", err)
	}
	return stop
}

func addRequest(ns *nstest.NS, container string) cniwire.AddRequest {
	return cniwire.AddRequest{ID: cniwire.ID{ContainerID: container, IfName: "eth0"}, Network: "n", NetNSPath: ns.Path(), NetNS: ns.File()}
}

func checkRequest(ns *nstest.NS, container string) cniwire.CheckRequest {
	return cniwire.CheckRequest{ID: cniwire.ID{ContainerID: container, IfName: "eth0"}, Network: "n", NetNSPath: ns.Path(), NetNS: ns.File()}
}

func delRequest(container string) cniwire.DelRequest {
	return cniwire.DelRequest{ID: cniwire.ID{ContainerID: container, IfName: "eth0"}, Network: "n"}
}

func later() int64 { return cniwire.Now() + patience.Nanoseconds() }

func dial(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn *net.UnixConn, req cniwire.Request, fds ...int) {
	t.Helper()
	frame, err := req.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sendRaw(t, conn, frame, fds...)
}

func sendRaw(t *testing.T, conn *net.UnixConn, frame []byte, fds ...int) {
	t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(frame, oob, nil); err != nil {
		t.Fatal(err)
	}
}

// expectClosed waits for the server to close conn without an answer.
func expectClosed(t *testing.T, conn *net.UnixConn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want the connection closed", n, err)
	}
}

func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing happened in time")
		panic("unreachable")
	}
}

func expect(t *testing.T, from <-chan string, want string) {
	t.Helper()
	if got := receive(t, from); got != want {
		t.Fatalf("%s came, want %s", got, want)
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Error(err)
	}
	return st.Ino
}
