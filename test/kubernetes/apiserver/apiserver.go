// SPDX-License-Identifier: Apache-2.0

// Package apiserver gives tests a Kubernetes API server of their own: the real
// kube-apiserver and an etcd on loopback, without nodes and controllers.
package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/kubeapi"
)

// patience is how long a program may take to answer after its start.
const patience = 60 * time.Second

// Server is an API server that belongs to a test.
type Server struct {
	// URL is where it answers, CAFile a file with its certificate.
	URL, CAFile string

	t       testing.TB
	dir     string
	bin     string
	pki     *pki
	etcd    string // URL of its etcd
	port    int
	process *exec.Cmd
}

// adminToken is the token of a member of system:masters.
const adminToken = "admin-token"

// Start starts an API server and stops it with the test. Programs are taken
// from the lab's build, as package cluster takes them: $OCICAT_K8S/bin.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), bin: binaries(t)}
	s.pki = newPKI(t, s.dir)
	s.CAFile = s.pki.file("ca.crt")
	if err := os.WriteFile(filepath.Join(s.dir, "tokens.csv"), []byte(adminToken+",admin,admin,system:masters\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.startEtcd()
	s.port = freePort(t)
	s.URL = fmt.Sprintf("https://127.0.0.1:%d", s.port)
	s.Resume()
	t.Cleanup(s.Kill)
	return s
}

// Admin asks as a member of system:masters.
func (s *Server) Admin() *Client { return s.As(adminToken) }

// As asks with a token; "" is nobody.
func (s *Server) As(token string) *Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.pki.authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	return &Client{server: s, token: token, http: &http.Client{Transport: transport, Timeout: 30 * time.Second}}
}

func binaries(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("OCICAT_K8S")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "ocicat", "kubernetes")
	}
	dir = filepath.Join(dir, "bin")
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("%v: run test/kubernetes/lab/cluster build, or set OCICAT_K8S", err)
		}
	}
	return dir
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) startEtcd() {
	s.t.Helper()
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", freePort(s.t)), fmt.Sprintf("http://127.0.0.1:%d", freePort(s.t))
	etcd := s.run("etcd", "--data-dir="+filepath.Join(s.dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	s.t.Cleanup(func() { stop(etcd) })
	s.etcd = client
}

// Resume starts the server again after Kill, at the same address with the same
// data, and waits until it is ready.
func (s *Server) Resume() {
	s.t.Helper()
	file := s.pki.file
	s.process = s.run("kube-apiserver", "--etcd-servers="+s.etcd, fmt.Sprintf("--secure-port=%d", s.port),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--tls-cert-file="+file("server.crt"), "--tls-private-key-file="+file("server.key"),
		"--client-ca-file="+file("ca.crt"), "--token-auth-file="+file("tokens.csv"), "--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+file("account.pub"), "--service-account-signing-key-file="+file("account.key"),
		"--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none")
	admin := s.Admin()
	s.await("the API server", func() bool { return admin.Try(http.MethodGet, "/readyz", "", nil).OK() })
}

// await waits until a condition holds.
func (s *Server) await(what string, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); wait(s.t, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.dir, "kube-apiserver.log"))
			s.t.Fatalf("%s is not ready:\n%s", what, log[max(0, len(log)-4000):])
		}
	}
}

// wait lets a program that is asked again do something meanwhile.
func wait(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// Kill ends the server without notice. Resume starts it again.
func (s *Server) Kill() { stop(s.process) }

// Freeze stops the server from running, as a machine that hangs does; Thaw
// lets it go on.
func (s *Server) Freeze() error { return s.process.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() error { return s.process.Process.Signal(syscall.SIGCONT) }

func stop(c *exec.Cmd) {
	_ = c.Process.Kill() // it may have ended
	_ = c.Wait()         // it was killed
}

// run starts a program with its log in the server's directory.
func (s *Server) run(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	c := exec.Command(filepath.Join(s.bin, name), args...)
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// Config is the store's configuration for an admin, without a limit that
// would hold tests up.
func (s *Server) Config() kubeapi.Config {
	return kubeapi.Config{Server: s.URL, CAFile: s.CAFile, Token: adminToken, Rate: 10_000, Burst: 10_000}
}

// InstallCRDs creates every definition in dir and waits until they are served.
func (s *Server) InstallCRDs(dir string) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("definitions in %s: %d, %v", dir, len(files), err)
	}
	admin := s.Admin()
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		admin.Must(http.MethodPost, definitions, "application/yaml", data)
	}
	for _, file := range files {
		group, plural, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".yaml"), "_")
		s.awaitServed(admin, plural+"."+group)
	}
}

const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// awaitServed waits until a definition is in force.
func (s *Server) awaitServed(admin *Client, name string) {
	s.t.Helper()
	s.await(name, func() bool {
		var crd struct {
			Spec struct {
				Group    string
				Names    struct{ Plural string }
				Versions []struct{ Name string }
			}
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
		admin.Must(http.MethodGet, definitions+"/"+name, "", nil).Into(s.t, &crd)
		for _, c := range crd.Status.Conditions {
			if c.Type == "NonStructuralSchema" && c.Status == "True" {
				s.t.Fatalf("%s: %s", name, c.Message)
			}
		}
		path := "/apis/" + crd.Spec.Group + "/" + crd.Spec.Versions[0].Name + "/" + crd.Spec.Names.Plural
		return admin.Try(http.MethodGet, path, "", nil).OK()
	})
}
