// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pki is what the server and its administrator show each other.
type pki struct {
	dir       string
	authority []byte // PEM
	admin     tls.Certificate
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// maker makes keys and certificates, and fails the test where it cannot.
type maker struct {
	*pki
	t      testing.TB
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	serial int64
}

func newPKI(t testing.TB, dir string) *pki {
	t.Helper()
	m := maker{pki: &pki{dir: dir}, t: t}
	m.caKey = m.key()
	m.ca = m.template("ca")
	m.ca.IsCA, m.ca.BasicConstraintsValid, m.ca.KeyUsage = true, true, x509.KeyUsageCertSign
	m.authority = m.sign(m.ca, m.caKey)
	m.write("ca.crt", m.authority)

	server, serverKey := m.template("kube-apiserver"), m.key()
	server.IPAddresses = append(server.IPAddresses, netip.MustParseAddr("127.0.0.1").AsSlice())
	m.write("server.crt", m.sign(server, serverKey))
	m.write("server.key", m.private(serverKey))

	admin, adminKey := m.template("admin"), m.key()
	admin.Subject.Organization = []string{"system:masters"}
	var err error
	if m.admin, err = tls.X509KeyPair(m.sign(admin, adminKey), m.private(adminKey)); err != nil {
		t.Fatal(err)
	}

	account := m.key()
	public, err := x509.MarshalPKIXPublicKey(&account.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	m.write("account.key", m.private(account))
	m.write("account.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	return m.pki
}

func (m *maker) key() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

func (m *maker) template(name string) *x509.Certificate {
	m.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(m.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func (m *maker) sign(c *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, c, m.ca, &key.PublicKey, m.caKey)
	if err != nil {
		m.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (m *maker) private(key *ecdsa.PrivateKey) []byte {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func (m *maker) write(name string, data []byte) {
	if err := os.WriteFile(m.file(name), data, 0o600); err != nil {
		m.t.Fatal(err)
	}
}
