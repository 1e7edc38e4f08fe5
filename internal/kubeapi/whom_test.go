// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// kubeconfigOf writes a file of kubectl with one cluster and one user.
func kubeconfigOf(t *testing.T, cluster, user string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {%s}}, {name: c2, cluster: {server: \"https://two\"}}]\nusers: [{name: u, user: {%s}}, {name: u2, user: {token: two}}]\n", cluster, user)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestImpersonation: the server hears whom we act as, of requests and of
// upgrades, from a kubeconfig.
func TestImpersonation(t *testing.T) {
	heard := make(chan http.Header, 2)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard <- r.Header }))
	t.Cleanup(server.Close)
	cfg, err := FromKubeconfig(Choice{}, kubeconfigOf(t, "server: "+server.URL, "token: mine, as: anna, as-uid: u1, as-groups: [shop, dev], as-user-extra: {example.org/scopes: [view]}"))
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, cfg)
	if _, err := c.Call(t.Context(), aRead); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Upgrade(t.Context(), "/x", nil); err == nil {
		t.Error("an upgrade nobody agreed to")
	}
	for range 2 {
		got := <-heard
		want := http.Header{"Impersonate-User": {"anna"}, "Impersonate-Uid": {"u1"}, "Impersonate-Group": {"shop", "dev"}, "Impersonate-Extra-Example.org%2fscopes": {"view"}, "Authorization": {"Bearer mine"}}
		for name := range got {
			if !strings.HasPrefix(name, "Impersonate") && name != "Authorization" {
				delete(got, name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestChoice: cluster and user are chosen apart from the context.
func TestChoice(t *testing.T) {
	file := kubeconfigOf(t, "server: \"https://one\"", "token: one")
	for choice, want := range map[Choice]string{
		{}:                            "https://one one",
		{Cluster: "c2"}:               "https://two one",
		{User: "u2"}:                  "https://one two",
		{Cluster: "c2", User: "u2"}:   "https://two two",
		{Context: "x", Cluster: "c2"}: "https://two one",
		{Cluster: "c3"}:               `read KUBECONFIG: cluster "c3": no such cluster`,
		{User: "u3"}:                  `read KUBECONFIG: user "u3": no such user`,
	} {
		cfg, err := FromKubeconfig(choice, file)
		got := cfg.Server + " " + cfg.Token
		if err != nil {
			got = strings.Replace(err.Error(), " "+file, "", 1)
		}
		if got != want {
			t.Errorf("%+v: %s, want %s", choice, got, want)
		}
	}
}

// TestRefusedFields: what would change where or as whom we talk, and cannot be
// honoured, is refused.
func TestRefusedFields(t *testing.T) {
	for _, test := range []struct {
		cluster, user string
		kind          fault.Kind
	}{
		{"", "auth-provider: {name: gcp}", fault.Unsupported},
		{"", "username: anna, password: x", fault.Unsupported},
		{"", "password: x", fault.Unsupported},
		{"", "as-groups: [admins]", fault.Invalid},
		{", proxy-url: \"ftp://proxy\"", "", fault.Invalid},
		{", proxy-url: \"proxy:3128\"", "", fault.Invalid},
	} {
		_, err := FromKubeconfig(Choice{}, kubeconfigOf(t, `server: "https://one"`+test.cluster, test.user))
		if !fault.Is(err, test.kind) || fault.HintOf(err) == "" {
			t.Errorf("%s %s: %v, want %v with a hint", test.cluster, test.user, err, test.kind)
		}
	}
}

// TestProxy: the proxy a kubeconfig names carries requests and upgrades.
func TestProxy(t *testing.T) {
	cfg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 {
			refuse(w, 403, "Forbidden", "no", "")
		}
	})
	var through atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through.Add(1)
		to, err := net.Dial("tcp", r.Host)
		if r.Method != http.MethodConnect || err != nil {
			t.Errorf("%s %s: %v", r.Method, r.Host, err)
			return
		}
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}))
	t.Cleanup(proxy.Close)
	named, err := FromKubeconfig(Choice{}, kubeconfigOf(t, fmt.Sprintf("server: %q, proxy-url: %q", cfg.Server, proxy.URL), "token: a"))
	if err != nil {
		t.Fatal(err)
	}
	named.CA = cfg.CA
	c := client(t, named)
	if _, err := c.Call(t.Context(), aRead); err != nil || through.Load() != 1 {
		t.Errorf("%v, %d connections through the proxy, want one", err, through.Load())
	}
	if _, err := c.Upgrade(t.Context(), "/x", nil); !IsForbidden(err) || through.Load() != 2 {
		t.Errorf("%v, %d connections through the proxy, want two", err, through.Load())
	}
	c.Close() // and with it the copies of the proxy
}

// insideEnv marks the copy of the test in a network namespace of its own.
const insideEnv = "OCICAT_TEST_ADDRESS_GONE"

// TestAddressGone: a stream and a call over a connection from an address that is
// taken away end at once, and the next call comes from another. It runs itself
// again in a network namespace of its own: connections are made by threads a test
// cannot choose.
func TestAddressGone(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		addressGone(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestAddressGone$", "-test.v", "-test.timeout", "1m")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in a network namespace of its own: %v\n%s", err, out)
	}
}

func addressGone(t *testing.T) {
	ip := func(args string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	ip("link set lo up")
	ip("addr add 192.0.2.1/32 dev lo")
	ip("addr add 192.0.2.2/32 dev lo")
	ip("route change table local local 192.0.2.1 dev lo src 192.0.2.2")
	listener, err := net.Listen("tcp", "192.0.2.1:0")
	if err != nil {
		t.Fatal(err)
	}
	began := make(chan string, 4)
	server := &httptest.Server{Listener: listener, EnableHTTP2: true, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		if r.Method == http.MethodGet {
			fmt.Fprint(w, host)
			return
		}
		began <- host
		<-r.Context().Done()
	})}}
	server.StartTLS()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	c := client(t, Config{Server: server.URL, Insecure: true, Timeout: time.Minute})
	failed := make(chan error, 1)
	go func() {
		_, err := c.Call(context.WithoutCancel(t.Context()), aWrite)
		failed <- err
	}()
	if from := <-began; from != "192.0.2.2" {
		t.Fatalf("the connection is from %s", from)
	}
	ip("addr del 192.0.2.2/32 dev lo")
	ip("route change table local local 192.0.2.1 dev lo src 192.0.2.1")
	c.AddressGone(netip.MustParseAddr("192.0.2.9"))
	select {
	case err := <-failed:
		t.Fatalf("%v: before the address was said to be gone", err)
	default:
	}
	start := time.Now()
	c.AddressGone(netip.MustParseAddr("192.0.2.2"))
	if err := <-failed; !fault.Is(err, fault.Unavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the call ends with %v", err)
	}
	got, err := c.Call(t.Context(), aRead)
	if err != nil || string(got) != "192.0.2.1" {
		t.Errorf("the next call comes from %s, %v", got, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("given up and connected anew after %v, want less than 1 s", took)
	}
}
