// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/nstest"
)

// TestProbe: two probes behind a router try each other; the way is made
// narrower, cut for one protocol, and cut.
func TestProbe(t *testing.T) {
	nstest.RequireRoot(t)
	a, router, b := nstest.New(t), nstest.New(t), nstest.New(t)
	router.SetSysctl("net/ipv4/ip_forward", "1")
	for name, ns := range map[string]*nstest.NS{"a": a, "b": b} {
		own := map[string]string{"a": "10.1.0", "b": "10.2.0"}[name]
		router.IP("link add to-" + name + " type veth peer name eth0 netns " + ns.Path())
		router.IP("address add " + own + ".1/24 dev to-" + name)
		router.IP("link set to-" + name + " up")
		ns.IP("address add " + own + ".2/24 dev eth0")
		ns.IP("link set eth0 up")
		ns.IP("route add default via " + own + ".1")
	}
	const at = "10.2.0.2:10007"
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- probeIn(ctx, b) }()
	try := func(attempt Attempt) (answer Answer) {
		t.Helper()
		a.Do(func() { answer = Try(t.Context(), attempt) })
		return answer
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return try(Attempt{Network: "tcp", Target: at}).Error == "" }, "the probe listens")
	wants := func(what string, want Answer, attempt Attempt) {
		t.Helper()
		if got := try(attempt); got.MTU != want.MTU || (got.Error == "") != (want.Error == "") || !strings.Contains(got.Error, want.Error) || got.Micros <= 0 {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	full := Attempt{Network: "udp", Target: at, Full: true}
	wants("TCP", Answer{}, Attempt{Network: "tcp", Target: at, Bytes: small})
	wants("much", Answer{}, Attempt{Network: "tcp", Target: at, Bytes: bulk})
	wants("UDP", Answer{MTU: 1500}, Attempt{Network: "udp", Target: at, Bytes: small})
	wants("full packets", Answer{MTU: 1500}, full)
	wants("nobody listens", Answer{Error: "connection refused"}, Attempt{Network: "tcp", Target: "10.2.0.2:9"})
	wants("nobody listens", Answer{MTU: 1500, Error: "a datagram of 64 bytes: connection refused"}, Attempt{Network: "udp", Target: "10.2.0.2:9", Bytes: small})
	wants("a name", Answer{Error: "look up nobody.invalid"}, Attempt{Network: "tcp", Target: "nobody.invalid:1"})
	wants("another network", Answer{Error: `network "sctp": want tcp or udp`}, Attempt{Network: "sctp", Target: at})

	router.IP("link set to-b mtu 1400")
	wants("full packets on a narrow way", Answer{MTU: 1500, Error: "a packet of 1500 bytes, the MTU: "}, full)
	wants("small ones", Answer{MTU: 1500}, Attempt{Network: "udp", Target: at, Bytes: small})
	router.IP("link set to-b mtu 1500")
	router.Run("nft", "add table ip x; add chain ip x f { type filter hook forward priority 0; }; add rule ip x f ip protocol udp drop")
	wants("UDP is dropped", Answer{MTU: 1500, Error: "no answer"}, Attempt{Network: "udp", Target: at, Bytes: small})
	router.IP("route add unreachable 10.2.0.2/32")
	wants("no route", Answer{Error: "no route to host"}, Attempt{Network: "tcp", Target: at})

	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the probe goes on after its end")
	}
}

// probeIn runs a probe whose sockets are a namespace's.
func probeIn(ctx context.Context, ns *nstest.NS) (err error) {
	ns.Do(func() { err = Probe(ctx) })
	return err
}

// TestQuestions asks a probe as a site does.
func TestQuestions(t *testing.T) {
	nstest.RequireRoot(t)
	ns := nstest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- probeIn(ctx, ns) }()
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		ns.Do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:10008") })
		return conn, err
	}}}
	ask := func(method, path, body string) (string, int) {
		q, err := http.NewRequestWithContext(ctx, method, "http://probe"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		reply, err := client.Do(q)
		if err != nil {
			return err.Error(), 0
		}
		defer reply.Body.Close()
		text, err := io.ReadAll(reply.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text), reply.StatusCode
	}
	nstest.Eventually(t, 5*time.Second, func() bool { _, code := ask("GET", "/v1/self", ""); return code == 200 }, "the probe answers")
	if text, _ := ask("GET", "/v1/self", ""); text != "{\"api\":\"10.96.0.1:443\"}\n" {
		t.Error(text)
	}
	// What it tries, TestProbe shows.
	text, code := ask("POST", "/v1/try", `{"network":"sctp","target":"127.0.0.1:1"}`)
	var answer Answer
	if err := json.Unmarshal([]byte(text), &answer); err != nil || code != 200 || !strings.Contains(answer.Error, "sctp") {
		t.Errorf("%d %s, %v", code, text, err)
	}
	if text, code := ask("POST", "/v1/try", `{`); code != 400 {
		t.Errorf("half a question: %d %s", code, text)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
