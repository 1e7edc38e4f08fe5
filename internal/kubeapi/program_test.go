// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// aProgram is a kubeconfig whose user is a program in the file's directory; it
// writes what it is told and that it was run, and prints the file "answer".
const aProgram = `
current-context: dev
contexts: [{name: dev, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "SERVER"}}]
users:
- name: u
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: ./login
      args: [token, "--for=dev"]
      env: [{name: PROFILE, value: blue}]
      interactiveMode: IfAvailable
      provideClusterInfo: true
      installHint: Get it from example.com.
`

const loginScript = `#!/bin/sh
cd "$(dirname "$0")"
echo "$PROFILE $* $KUBERNETES_EXEC_INFO" >>runs
cat answer
`

// programDir has a kubeconfig and its program.
type programDir struct {
	t   *testing.T
	dir string
}

func newProgram(t *testing.T, server string) programDir {
	t.Helper()
	p := programDir{t, t.TempDir()}
	p.write("config", strings.ReplaceAll(aProgram, "SERVER", server), 0o600)
	p.write("login", loginScript, 0o700)
	return p
}

func (p programDir) write(name, text string, mode os.FileMode) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), mode); err != nil {
		p.t.Fatal(err)
	}
}

// answers has the program print a token that is good until then.
func (p programDir) answers(token string, until time.Time) {
	p.t.Helper()
	p.write("answer", `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"`+token+`","expirationTimestamp":"`+until.UTC().Format(time.RFC3339)+`"}}`, 0o600)
}

// runs are the lines the program wrote.
func (p programDir) runs() []string {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, "runs"))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func (p programDir) client() *Client {
	p.t.Helper()
	cfg, err := FromKubeconfig(Choice{}, filepath.Join(p.dir, "config"))
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.Close)
	return c
}

// TestProgramGivesToken: a program is run once while its token is good, again
// when it is over, and again when the server does not accept it.
func TestProgramGivesToken(t *testing.T) {
	good := "first"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+good {
			http.Error(w, `{"message":"Unauthorized"}`, http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte("{}"))
	}))
	defer server.Close()
	p := newProgram(t, server.URL)
	p.answers("first", time.Now().Add(time.Hour))
	c := p.client()
	get := func() error {
		_, err := c.Call(t.Context(), Request{What: "get", Method: http.MethodGet, Path: "/x"})
		return err
	}
	for range 2 {
		if err := get(); err != nil {
			t.Fatal(err)
		}
	}
	runs := p.runs()
	if len(runs) != 1 || !strings.HasPrefix(runs[0], "blue token --for=dev {") {
		t.Fatalf("runs %q", runs)
	}
	var told execInfo
	if err := json.Unmarshal([]byte(runs[0][strings.IndexByte(runs[0], '{'):]), &told); err != nil || told.Kind != execKind ||
		told.Spec.Interactive || told.Spec.Cluster == nil || told.Spec.Cluster.Server != server.URL {
		t.Errorf("told %+v, %v", told, err)
	}
	good = "second" // the server forgets the first; the new one is over at once
	p.answers("second", time.Now().Add(-time.Second))
	for want := 2; want <= 3; want++ {
		if err := get(); err != nil || len(p.runs()) < want {
			t.Errorf("%v, %d runs, want %d", err, len(p.runs()), want)
		}
	}
	p.answers("wrong", time.Now().Add(time.Hour))
	if err := get(); !fault.Is(err, fault.Unavailable) || IsForbidden(err) {
		t.Errorf("a token that is not accepted: %v", err)
	}
}

func TestProgramFails(t *testing.T) {
	for what, test := range map[string]struct {
		login, answer, want, hint string
	}{
		"no JSON":      {loginScript, "hello", "does not print JSON", ""},
		"other kind":   {loginScript, `{"apiVersion":"v1","kind":"Secret"}`, "it prints v1 Secret", ""},
		"nothing":      {loginScript, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential"}`, "neither token nor certificate", ""},
		"bad pair":     {loginScript, `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"clientCertificateData":"x"}}`, "its certificate", ""},
		"exit 3":       {"#!/bin/sh\nexit 3\n", "", "exit status 3", "kubectl get nodes"},
		"no such file": {"", "", "no such program", "Get it from example.com."},
	} {
		p := newProgram(t, "http://127.0.0.1:1")
		p.write("answer", test.answer, 0o600)
		p.write("login", test.login, 0o700)
		if test.login == "" {
			if err := os.Remove(filepath.Join(p.dir, "login")); err != nil {
				t.Fatal(err)
			}
		}
		_, err := p.client().Call(t.Context(), Request{What: "get", Method: http.MethodGet, Path: "/x"})
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(fault.HintOf(err), test.hint) {
			t.Errorf("%s: %v (%s), want %s (%s)", what, err, fault.HintOf(err), test.want, test.hint)
		}
	}
}

func TestProgramThatAsksNeedsTerminal(t *testing.T) {
	p := newProgram(t, "http://127.0.0.1:1")
	p.write("config", strings.ReplaceAll(aProgram, "IfAvailable", "Always"), 0o600)
	cfg, err := FromKubeconfig(Choice{}, filepath.Join(p.dir, "config"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Program.Login(t.Context()); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "terminal") {
		t.Errorf("without a terminal: %v", err)
	}
	p.answers("x", time.Now().Add(time.Hour))
	cfg.Program.Stdin = strings.NewReader("")
	cfg.Program.cluster = nil
	if err := cfg.Program.Login(t.Context()); err != nil || !strings.Contains(p.runs()[0], `"interactive":true`) {
		t.Errorf("with one: %v, told %q", err, p.runs())
	}
}

// TestKubeconfigsAreJoined: what stands first counts, files may be missing, and
// what a file names is relative to it.
func TestKubeconfigsAreJoined(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name, "config")
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	list := []string{
		filepath.Join(dir, "absent"),
		write("a", "contexts: [{name: x, context: {cluster: c, user: u}}, {name: y, context: {cluster: d, user: u}}]\nusers: [{name: u, user: {tokenFile: t}}]\n"),
		write("b", "current-context: x\ncontexts: [{name: x, context: {cluster: wrong}}]\nclusters: [{name: c, cluster: {server: 'https://c', certificate-authority: ca}}, {name: d, cluster: {server: 'https://d'}}]\n"),
	}
	joined := strings.Join(list, string(filepath.ListSeparator))
	cfg, err := FromEnvironment(func(name string) string { return map[string]string{"KUBECONFIG": joined}[name] })
	if err != nil || cfg.Server != "https://c" || cfg.TokenFile != filepath.Join(dir, "a", "t") || cfg.CAFile != filepath.Join(dir, "b", "ca") {
		t.Errorf("%+v, %v", cfg, err)
	}
	if cfg, err := FromKubeconfig(Choice{Context: "y"}, list...); err != nil || cfg.Server != "https://d" {
		t.Errorf("another context: %+v, %v", cfg, err)
	}
	if _, err := FromKubeconfig(Choice{Context: "z"}, list...); !fault.Is(err, fault.Invalid) || fault.HintOf(err) != "There are: x, y, x." {
		t.Errorf("no such context: %v (%s)", err, fault.HintOf(err))
	}
	if _, err := FromKubeconfig(Choice{}, list[0], list[0]); !fault.Is(err, fault.Invalid) {
		t.Errorf("all missing: %v", err)
	}
}

// FuzzGiven: what a program prints is credentials, or refused.
func FuzzGiven(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"x","expirationTimestamp":"2026-11-22T12:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := parseGiven(data, execVersions[0])
		if err == nil && g.token == "" && g.pair == nil {
			t.Errorf("%q: nothing given", data)
		}
	})
}

// TestProgramGivesCertificate: the server sees the certificate the program
// prints.
func TestProgramGivesCertificate(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "{%q:1}", r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	p := newProgram(t, server.URL)
	p.write("config", strings.ReplaceAll(strings.ReplaceAll(aProgram, "SERVER", server.URL), "cluster: {server", "cluster: {insecure-skip-tls-verify: true, server"), 0o600)
	cert, key := newCertificate(t, "anna")
	answer, err := json.Marshal(map[string]any{
		"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
		"status": map[string]any{"clientCertificateData": cert, "clientKeyData": key},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.write("answer", string(answer), 0o600)
	c := p.client()
	for range 2 {
		if data, err := c.Call(t.Context(), Request{What: "get", Method: http.MethodGet, Path: "/x"}); err != nil || string(data) != `{"anna":1}` {
			t.Errorf("%s, %v", data, err)
		}
	}
	if runs := p.runs(); len(runs) != 1 {
		t.Errorf("%d runs, want one", len(runs))
	}
}

// newCertificate is a certificate that signs itself, and its key, as PEM.
func newCertificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, data []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", secret)
}
