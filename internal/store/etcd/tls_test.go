// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/embed"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
	"github.com/ocicat-net/ocicat/test/chaos"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{t: t}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.file, _ = a.issue(filepath.Join(t.TempDir(), "ca"), template)
	text, err := os.ReadFile(a.file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue writes a certificate and its key to base.crt and base.key; an
// authority without a certificate signs its own.
func (a *authority) issue(base string, template *x509.Certificate) (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = template.NotAfter.Add(-24 * time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer, a.key = template, private, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(base+".crt", "CERTIFICATE", der)
	a.write(base+".key", "PRIVATE KEY", secret)
	return base + ".crt", base + ".key"
}

func (a *authority) write(path, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// leaf is a certificate for a name or address, for both ends.
func leaf(host string) *x509.Certificate {
	c := &x509.Certificate{
		Subject:     pkix.Name{CommonName: host},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		c.IPAddresses = append(c.IPAddresses, addr.AsSlice())
	} else {
		c.DNSNames = []string{host}
	}
	return c
}

// secured starts an etcd with a certificate and returns its endpoint, and a
// function that restarts it.
func secured(t *testing.T, cert, key, clientCA string) (endpoint string, restart func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	endpoint = "https://" + l.Addr().String()
	_ = l.Close()
	dir := t.TempDir()
	var running *embed.Server
	start := func() {
		if running != nil {
			_ = running.Close()
		}
		running, err = embed.Start(t.Context(), embed.Config{
			Dir: filepath.Join(dir, "data"), Listen: []string{endpoint}, CertFile: cert, KeyFile: key, ClientCA: clientCA, NoFsync: true, LogLevel: "error",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	start()
	t.Cleanup(func() { _ = running.Close() })
	return endpoint, start
}

// eventually asks until the answer is accepted, ten seconds.
func eventually(t *testing.T, s *etcd.Store, accept func(error) bool) error {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, _, err := s.List(t.Context(), store.Node, "")
		if accept(err) {
			return err
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 10s: %v (%s)", err, fault.HintOf(err))
		}
	}
}

func fine(err error) bool   { return err == nil }
func denied(err error) bool { return errors.Is(err, store.ErrDenied) }

// TestCertificatesWrong wants one sentence and one remedy for each way in
// which certificates can be wrong.
func TestCertificatesWrong(t *testing.T) {
	r := chaos.Begin(t, "E7", "etcd over TLS: wrong authority, wrong name, expired, no certificate of ours, one of another authority, no TLS at all", "one sentence and a remedy for each")
	ca, other, dir := newAuthority(t), newAuthority(t), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	cert, key := ca.issue(at("server"), leaf("127.0.0.1"))
	plain, _ := secured(t, cert, key, "")
	mutual, _ := secured(t, cert, key, ca.file)
	named, namedKey := ca.issue(at("named"), leaf("etcd.example"))
	wrongName, _ := secured(t, named, namedKey, "")
	old := leaf("127.0.0.1")
	old.NotAfter = time.Now().Add(-time.Hour)
	oldCert, oldKey := ca.issue(at("old"), old)
	expired, _ := secured(t, oldCert, oldKey, "")
	mine, mineKey := ca.issue(at("client"), leaf("agent"))
	stranger, strangerKey := other.issue(at("stranger"), leaf("agent"))

	for name, test := range map[string]struct {
		endpoint    string
		credentials etcd.Credentials
		says, hint  string
	}{
		"wrong authority":     {plain, etcd.Credentials{CAFile: other.file}, "unknown authority", "ETCD_CA_CERT_FILE"},
		"wrong name":          {wrongName, etcd.Credentials{CAFile: ca.file}, "127.0.0.1", "ETCD_ENDPOINTS"},
		"expired":             {expired, etcd.Credentials{CAFile: ca.file}, "expired", "renew"},
		"no certificate":      {mutual, etcd.Credentials{CAFile: ca.file}, "certificate required", "ETCD_CERT_FILE"},
		"another certificate": {mutual, etcd.Credentials{CAFile: ca.file, CertFile: stranger, KeyFile: strangerKey}, "remote error: tls", "ETCD_CERT_FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			err := eventually(t, open(t, etcd.Config{Endpoints: []string{test.endpoint}, Credentials: test.credentials}), denied)
			if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), test.says) || !strings.Contains(fault.HintOf(err), test.hint) {
				t.Errorf("%v (%s), want %q and a remedy with %q", err, fault.HintOf(err), test.says, test.hint)
			}
			r.Measuredf("%s: %q", name, err)
		})
	}
	eventually(t, open(t, etcd.Config{Endpoints: []string{plain}, Credentials: etcd.Credentials{CAFile: ca.file}}), fine)
	eventually(t, open(t, etcd.Config{Endpoints: []string{mutual}, Credentials: etcd.Credentials{CAFile: ca.file, CertFile: mine, KeyFile: mineKey}}), fine)
	r.Twinf("right certificates: served")
}

// TestCertificatesRotated replaces the authority of both ends under a running
// store and wants it connected again without being made anew.
func TestCertificatesRotated(t *testing.T) {
	r := chaos.Begin(t, "E7", "authority and both certificates replaced, etcd restarted, the client not", "connected again in < 3 s")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	caFile := at("authorities.crt")
	issue := func() {
		ca := newAuthority(t)
		text, err := os.ReadFile(ca.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(caFile, text, 0o600); err != nil {
			t.Fatal(err)
		}
		ca.issue(at("server"), leaf("127.0.0.1"))
		ca.issue(at("client"), leaf("agent"))
	}
	issue()
	endpoint, restart := secured(t, at("server.crt"), at("server.key"), caFile)
	s := open(t, etcd.Config{Endpoints: []string{endpoint}, Credentials: etcd.Credentials{CAFile: caFile, CertFile: at("client.crt"), KeyFile: at("client.key")}})
	eventually(t, s, fine)
	issue()
	restart()
	start := time.Now()
	eventually(t, s, fine)
	took := time.Since(start)
	r.Measuredf("connected again after %v", took.Round(time.Millisecond))
	if took > 3*time.Second {
		t.Errorf("connected again after %v, want less than 3s", took)
	}
}

// withAuth turns authentication on and returns the function that sets the
// password of user agent.
func withAuth(t *testing.T, endpoint string) (setPassword func(string)) {
	t.Helper()
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	must(admin.UserAdd(ctx, "root", "root"))
	must(admin.UserGrantRole(ctx, "root", "root"))
	must(admin.RoleAdd(ctx, "ocicat"))
	must(admin.RoleGrantPermission(ctx, "ocicat", "/calico/", clientv3.GetPrefixRangeEnd("/calico/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(admin.UserAdd(ctx, "agent", "first"))
	must(admin.UserGrantRole(ctx, "agent", "ocicat"))
	must(admin.UserAdd(ctx, "nobody", "first"))
	must(admin.AuthEnable(ctx))
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop(), Username: "root", Password: "root"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return func(password string) {
		t.Helper()
		must(root.UserChangePassword(ctx, "agent", password))
	}
}

// TestPasswords wants wrong users and passwords named, and a password that is
// rotated in its file taken up without a restart, with no word of it anywhere.
func TestPasswords(t *testing.T) {
	r := chaos.Begin(t, "E7", "etcd with users: wrong and missing password, no right, password rotated in its file", "one sentence and a remedy for each; served again after the rotation")
	endpoint := server(t, 0)
	setPassword := withAuth(t, endpoint)
	at := func(c etcd.Credentials) *etcd.Store {
		return open(t, etcd.Config{Endpoints: []string{endpoint}, Credentials: c})
	}
	for name, test := range map[string]struct {
		credentials etcd.Credentials
		hint        string
	}{
		"no user":        {etcd.Credentials{}, "ETCD_USERNAME"},
		"wrong user":     {etcd.Credentials{Username: "somebody", Password: "first"}, "ETCD_USERNAME"},
		"wrong password": {etcd.Credentials{Username: "agent", Password: "canary-4711"}, "ETCD_PASSWORD_FILE"},
		"no right":       {etcd.Credentials{Username: "nobody", Password: "first"}, "/calico/"},
	} {
		err := eventually(t, at(test.credentials), denied)
		if !strings.Contains(fault.HintOf(err), test.hint) || strings.Contains(err.Error()+fault.HintOf(err), "canary") {
			t.Errorf("%s: %v (%s), want a remedy with %q", name, err, fault.HintOf(err), test.hint)
		}
		r.Measuredf("%s: %q", name, err)
	}
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	s := at(etcd.Credentials{Username: "agent", PasswordFile: file})
	eventually(t, s, fine)
	events, err := s.Watch(t.Context(), store.BGPPeer, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	setPassword("second")
	write("second")
	eventually(t, s, fine)
	if _, err := s.Put(t.Context(), store.Key{Kind: store.BGPPeer, Name: "tor"}, []byte("{}"), 0); err != nil {
		t.Errorf("put after the rotation: %v (%s)", err, fault.HintOf(err))
	}
	select {
	case <-events: // the change, or the end of the watch, which is opened anew
	case <-time.After(10 * time.Second):
		t.Error("the watch is deaf after the rotation")
	}
	r.Measuredf("rotated: served")
}

func TestCredentialsAreChecked(t *testing.T) {
	loose := filepath.Join(t.TempDir(), "loose")
	if err := os.WriteFile(loose, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]etcd.Config{
		"user without password":   {Endpoints: []string{"http://a:1"}, Credentials: etcd.Credentials{Username: "u"}},
		"password without user":   {Endpoints: []string{"http://a:1"}, Credentials: etcd.Credentials{Password: "p"}},
		"certificate without TLS": {Endpoints: []string{"http://a:1"}, Credentials: etcd.Credentials{CAFile: loose}},
		"certificate without key": {Endpoints: []string{"https://a:1"}, Credentials: etcd.Credentials{CertFile: loose}},
		"no authorities":          {Endpoints: []string{"https://a:1"}, Credentials: etcd.Credentials{CAFile: "/nowhere"}},
		"not authorities":         {Endpoints: []string{"https://a:1"}, Credentials: etcd.Credentials{CAFile: loose}},
		"others may read":         {Endpoints: []string{"http://a:1"}, Credentials: etcd.Credentials{Username: "u", PasswordFile: loose}},
		"mixed":                   {Endpoints: []string{"https://a:1", "http://b:1"}},
		"in the URL":              {Endpoints: []string{"http://u:canary@b:1"}},
	} {
		s, err := etcd.New(cfg)
		if err == nil {
			_ = s.Close()
		}
		if !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v (%s), want it invalid with a hint", name, err, fault.HintOf(err))
		}
	}
}

// TestCredentialsAreNeverPrinted looks for a password in every way of printing
// its holder.
func TestCredentialsAreNeverPrinted(t *testing.T) {
	r := chaos.Begin(t, "G9", "etcd's password in a struct that is logged, printed and encoded in every way", "0 hits")
	c := etcd.Credentials{Username: "u", Password: "canary-4711"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "credentials", c, "config", etcd.Config{Credentials: c})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "credentials", c, "config", etcd.Config{Credentials: c})
	printed := log.String() + fmt.Sprint(c, &c) + fmt.Sprintf("%v %+v %#v %s", c, etcd.Config{Credentials: c}, c, c)
	if strings.Contains(printed, "canary") {
		t.Errorf("printed: %s", printed)
	}
	if !strings.Contains(printed, `"u\"`) && !strings.Contains(printed, `"u"`) {
		t.Errorf("the user is not printed, so nothing was: %s", printed)
	}
	r.Measuredf("0 hits in %d bytes", len(printed))
}
