// SPDX-License-Identifier: Apache-2.0

package cniwire

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

func TestRequestSurvivesTheWire(t *testing.T) {
	for _, want := range []Request{addRequest(), delRequest(), checkRequest(), gcRequest(), statusRequest()} {
		frame, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if need, err := Need(frame); err != nil || need != len(frame) {
			t.Errorf("%s: Need = %d, %v; want %d", want.Verb(), need, err, len(frame))
		}
		got, err := DecodeRequest(frame)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, addrs, cmp.AllowUnexported(os.File{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Verb(), diff)
		}
	}
}

func TestErrorSurvivesTheWire(t *testing.T) {
	cause := fault.Hint(fault.New(fault.Exhausted, "assign address: %w", io.EOF), "look at %s", "ipam show")
	for _, sent := range []error{cause, WithCode(CodeLimited, cause)} {
		frame, err := Answer{V: Version, Error: NewError(sent)}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := DecodeAnswer(frame)
		if err != nil {
			t.Fatal(err)
		}
		got := answer.Error.Err()
		if got.Error() != sent.Error() || fault.KindOf(got) != fault.Exhausted ||
			fault.HintOf(got) != "look at ipam show" || CodeOf(got) != CodeOf(sent) {
			t.Errorf("sent %v (code %d), got %v (%v, %q, code %d)", sent, CodeOf(sent), got, fault.KindOf(got), fault.HintOf(got), CodeOf(got))
		}
	}
	if WithCode(5, nil) != nil {
		t.Error("WithCode of nil is an error")
	}
}

// TestEveryErrorFitsAFrame: bytes that JSON escapes must not make an error
// too big to be told.
func TestEveryErrorFitsAFrame(t *testing.T) {
	huge := strings.Repeat("\x00", 10*MaxFrame)
	if _, err := (Answer{V: Version, Error: NewError(fault.Hint(errors.New(huge), "%s", huge))}).Encode(); err != nil {
		t.Error(err)
	}
}

func TestBadFramesAreRefused(t *testing.T) {
	good, err := statusRequest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	long := binary.BigEndian.AppendUint32(nil, MaxFrame+1)
	for name, frame := range map[string][]byte{
		"nothing":       {},
		"half a header": good[:3],
		"length zero":   {0, 0, 0, 0},
		"length beyond": long,
		"one short":     good[:len(good)-1],
		"one more":      append(good[:len(good):len(good)], ' '),
		"no JSON":       frame("{"),
		"wrong type":    frame(`{"v":"1"}`),
		"no command":    frame(`{"v":1}`),
		"two commands":  frame(`{"v":1,"status":{"network":"n"},"del":{"containerID":"a","ifName":"eth0","network":"n"}}`),
	} {
		if _, err := DecodeRequest(frame); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	_, err = DecodeRequest(frame(`{"v":2,"status":{"network":"n"}}`))
	if !fault.Is(err, fault.Unsupported) || fault.HintOf(err) == "" {
		t.Errorf("another version: %v, want Unsupported with a hint", err)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*AddRequest){
		"container id with a path":   func(r *AddRequest) { r.ContainerID = "../../etc" },
		"container id with a NUL":    func(r *AddRequest) { r.ContainerID = "a\x00b" },
		"container id of a dot":      func(r *AddRequest) { r.ContainerID = ".a" },
		"container id without end":   func(r *AddRequest) { r.ContainerID = strings.Repeat("a", 201) },
		"no container id":            func(r *AddRequest) { r.ContainerID = "" },
		"no interface":               func(r *AddRequest) { r.IfName = "" },
		"interface of dots":          func(r *AddRequest) { r.IfName = ".." },
		"interface with a slash":     func(r *AddRequest) { r.IfName = "a/b" },
		"interface with a colon":     func(r *AddRequest) { r.IfName = "a:b" },
		"interface with a template":  func(r *AddRequest) { r.IfName = "eth%d" },
		"interface with a new line":  func(r *AddRequest) { r.IfName = "eth\n0" },
		"interface outside ASCII":    func(r *AddRequest) { r.IfName = "eth\u00a0" },
		"interface of 16 bytes":      func(r *AddRequest) { r.IfName = "abcdefghijklmnop" },
		"no network":                 func(r *AddRequest) { r.Network = "" },
		"network with a slash":       func(r *AddRequest) { r.Network = "a/b" },
		"pod without namespace":      func(r *AddRequest) { r.Pod.Namespace = "" },
		"pod with a slash":           func(r *AddRequest) { r.Pod.Name = "a/b" },
		"namespace with a dot":       func(r *AddRequest) { r.Pod.Namespace = "a.b" },
		"pod name without end":       func(r *AddRequest) { r.Pod.Name = strings.Repeat("a", 254) },
		"mac of five bytes":          func(r *AddRequest) { r.MAC = "0e:1c:2c:f6:2a" },
		"mac of a group":             func(r *AddRequest) { r.MAC = "01:00:5e:00:00:01" },
		"mac of zeroes":              func(r *AddRequest) { r.MAC = "00:00:00:00:00:00" },
		"mac with other separators":  func(r *AddRequest) { r.MAC = "0e-1c-2c-f6-2a-f9" },
		"mtu too small":              func(r *AddRequest) { r.MTU = 67 },
		"mtu negative":               func(r *AddRequest) { r.MTU = -1 },
		"mtu too big":                func(r *AddRequest) { r.MTU = 1 << 16 },
		"address of nobody":          func(r *AddRequest) { r.IPs = []netip.Addr{netip.IPv4Unspecified()} },
		"address of loopback":        func(r *AddRequest) { r.IPs = []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
		"too many addresses":         func(r *AddRequest) { r.IPs = make([]netip.Addr, 17) },
		"pool without name":          func(r *AddRequest) { r.Pools = []string{""} },
		"too many pools":             func(r *AddRequest) { r.Pools = make([]string, 65) },
		"path of namespace too long": func(r *AddRequest) { r.NetNSPath = strings.Repeat("/", 4097) },
		"node name too long":         func(r *AddRequest) { r.NodeName = strings.Repeat("n", 254) },
	} {
		req := addRequest()
		spoil(req.Add)
		if err := req.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	for name, req := range map[string]Request{
		"CHECK of a path":              {V: 1, Check: &CheckRequest{ID: ID{"../x", "eth0"}, Network: "n"}},
		"CHECK without network":        {V: 1, Check: &CheckRequest{ID: ID{"a", "eth0"}}},
		"CHECK of too many interfaces": {V: 1, Check: &CheckRequest{ID: ID{"a", "eth0"}, Network: "n", Prev: Prev{Interfaces: make([]PrevInterface, 65)}}},
		"CHECK of too many addresses":  {V: 1, Check: &CheckRequest{ID: ID{"a", "eth0"}, Network: "n", Prev: Prev{Addresses: make([]netip.Prefix, 65)}}},
		"GC without network":           {V: 1, GC: &GCRequest{Valid: []ID{{"a", "eth0"}}}},
		"GC that keeps a path":         {V: 1, GC: &GCRequest{Network: "n", Valid: []ID{{"a", "eth0"}, {"../x", "eth0"}}}},
		"GC that keeps no interface":   {V: 1, GC: &GCRequest{Network: "n", Valid: []ID{{"a", ""}}}},
		"two commands":                 {V: 1, GC: &GCRequest{Network: "n"}, Status: &StatusRequest{Network: "n"}},
	} {
		if err := req.Validate(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	req := addRequest()
	req.Add.IPs = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	if err := req.Validate(); !fault.Is(err, fault.Unsupported) {
		t.Errorf("IPv6: %v, want Unsupported", err)
	}
}

func TestNetNSMustBeAPods(t *testing.T) {
	ns := nstest.New(t)
	if err := CheckNetNS(ns.FD()); err != nil {
		t.Errorf("a pod's namespace: %v", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for path, want := range map[string]string{
		"/proc/thread-self/ns/net": "is the host's own network namespace",
		"/proc/self/ns/mnt":        "is a namespace, but not one of networks",
		"/proc/self/status":        "is not a namespace",
		"/":                        "is not a namespace",
	} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckNetNS(int(f.Fd())); !fault.Is(err, fault.Invalid) || err.Error() != want {
			t.Errorf("%s: %v, want Invalid %q", path, err, want)
		}
		f.Close()
	}
}

func FuzzWire(f *testing.F) {
	for _, r := range []Request{addRequest(), delRequest(), checkRequest(), gcRequest(), statusRequest()} {
		seed, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add(frame(`{"v":1,"add":{"hostIf":"cali1","mac":"","mtu":1500,"addresses":["172.16.196.1/32"]}}`))
	f.Add(frame(`{"v":1,"error":{"kind":"exhausted","code":111,"text":"x"}}`))
	f.Fuzz(func(t *testing.T, bytes []byte) {
		if req, err := DecodeRequest(bytes); err == nil {
			if err := req.Validate(); err != nil {
				t.Errorf("decoded, but %v", err)
			}
			if req.Verb() == "" || req.Status == nil && req.GC == nil && CheckContainerID(req.ID().ContainerID) != nil {
				t.Errorf("a request of nothing was decoded: %+v", req)
			}
		} else if kind := fault.KindOf(err); kind != fault.Invalid && kind != fault.Unsupported {
			t.Errorf("request: kind %v: %v", kind, err)
		}
		if answer, err := DecodeAnswer(bytes); err == nil && answer.Error != nil && answer.Error.Err() == nil {
			t.Error("an error travelled and arrived as none")
		}
	})
}

var addrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func addRequest() Request {
	return Request{V: Version, Deadline: 7, Add: &AddRequest{
		ID:        ID{"0123abcd", "eth0"},
		Network:   "k8s-pod-network",
		Pod:       Pod{Namespace: "devops", Name: "busybox-77649b9c55-fv298", UID: "3f2a"},
		NetNSPath: "/var/run/netns/cni-1",
		IPs:       []netip.Addr{netip.MustParseAddr("172.16.196.1")},
		Pools:     []string{"default"},
		MAC:       "0e:1c:2c:f6:2a:f9",
		MTU:       1450,
	}}
}

func delRequest() Request {
	return Request{V: Version, Deadline: 7, Del: &DelRequest{ID: ID{"0123abcd", "eth0"}, Network: "n"}}
}

func checkRequest() Request {
	return Request{V: Version, Deadline: 7, Check: &CheckRequest{
		ID: ID{"0123abcd", "eth0"}, Network: "n", NetNSPath: "/var/run/netns/cni-1",
		Prev: Prev{
			Interfaces: []PrevInterface{{Name: "cali1", MAC: "ee:ee:ee:ee:ee:ee"}, {Name: "eth0", MAC: "0e:1c:2c:f6:2a:f9", MTU: 1500, InPod: true}},
			Addresses:  []netip.Prefix{netip.MustParsePrefix("172.16.196.1/32")},
		},
	}}
}

func gcRequest() Request {
	return Request{V: Version, Deadline: 7, GC: &GCRequest{Network: "n", Valid: []ID{{"0123abcd", "eth0"}, {"0123abcd", "net1"}}}}
}

func statusRequest() Request {
	return Request{V: Version, Deadline: 7, Status: &StatusRequest{Network: "n"}}
}

func frame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}
