// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Credentials say how this program and etcd prove to each other who they are.
// Files are read when the store is made, so that a mistake shows at once, and
// anew for every connection, so that they can be replaced while it runs.
type Credentials struct {
	// CAFile holds the authorities of etcd's certificate, PEM; "" for the
	// machine's.
	CAFile string
	// CertFile and KeyFile are the certificate and key shown to etcd, PEM;
	// both or neither.
	CertFile, KeyFile string
	// Username is etcd's user; "" for none.
	Username string
	// Password is the user's; it is never printed.
	Password string
	// PasswordFile holds the password in place of Password, mode 0600; a
	// newline at its end does not count.
	PasswordFile string
}

// CredentialsFrom takes credentials from the environment: ETCD_CA_CERT_FILE,
// ETCD_CERT_FILE, ETCD_KEY_FILE, ETCD_USERNAME, ETCD_PASSWORD and
// ETCD_PASSWORD_FILE.
func CredentialsFrom(getenv func(string) string) Credentials {
	return Credentials{
		CAFile: getenv("ETCD_CA_CERT_FILE"), CertFile: getenv("ETCD_CERT_FILE"), KeyFile: getenv("ETCD_KEY_FILE"),
		Username: getenv("ETCD_USERNAME"), Password: getenv("ETCD_PASSWORD"), PasswordFile: getenv("ETCD_PASSWORD_FILE"),
	}
}

// For leaves the certificates out where no endpoint asks for them: one shell's
// environment may name the credentials of a cluster, and its user a lab.
func (c Credentials) For(endpoints []string) Credentials {
	for _, endpoint := range endpoints {
		if strings.HasPrefix(endpoint, "https://") {
			return c
		}
	}
	c.CAFile, c.CertFile, c.KeyFile = "", "", ""
	return c
}

// String names the user and the files; it never holds the password.
func (c Credentials) String() string {
	return fmt.Sprintf("user %q, authorities %q, certificate %q", c.Username, c.CAFile, c.CertFile)
}

// GoString is String: no way of printing shows the password.
func (c Credentials) GoString() string { return c.String() }

// LogValue is String: no log shows the password.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText is String: nor does an encoder.
func (c Credentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// validate reads everything once.
func (c Credentials) validate(secure bool) error {
	password, err := c.password()
	if err != nil {
		return err
	}
	switch {
	case c.Password != "" && c.PasswordFile != "":
		return fault.Hint(fault.New(fault.Invalid, "etcd credentials: a password and a password file"), "unset ETCD_PASSWORD or ETCD_PASSWORD_FILE")
	case c.Username != "" && password == "":
		return fault.Hint(fault.New(fault.Invalid, "etcd credentials: user %q without a password", c.Username), "set ETCD_PASSWORD_FILE or ETCD_PASSWORD")
	case c.Username == "" && password != "":
		return fault.Hint(fault.New(fault.Invalid, "etcd credentials: a password without a user"), "set ETCD_USERNAME")
	case !secure && c.CAFile+c.CertFile+c.KeyFile != "":
		return fault.Hint(fault.New(fault.Invalid, "etcd credentials: certificates, but no endpoint is https://"),
			"write https:// in ETCD_ENDPOINTS, or unset ETCD_CA_CERT_FILE, ETCD_CERT_FILE and ETCD_KEY_FILE")
	case (c.CertFile == "") != (c.KeyFile == ""):
		return fault.Hint(fault.New(fault.Invalid, "etcd credentials: a certificate without its key, or a key without its certificate"),
			"set both ETCD_CERT_FILE and ETCD_KEY_FILE, or neither")
	}
	if secure {
		_, err = c.tlsConfig()
	}
	return err
}

// password is the password as it stands now.
func (c Credentials) password() (string, error) {
	if c.PasswordFile == "" {
		return c.Password, nil
	}
	info, err := os.Stat(c.PasswordFile)
	if err != nil {
		return "", fault.Hint(fault.New(fault.Invalid, "read etcd password: %w", err), "correct ETCD_PASSWORD_FILE")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fault.Hint(fault.New(fault.Invalid, "read etcd password: %s has mode %04o: others may read it", c.PasswordFile, mode), "chmod 600 %s", c.PasswordFile)
	}
	text, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fault.New(fault.Invalid, "read etcd password: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// tlsConfig reads the files as they stand now.
func (c Credentials) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fault.Hint(fault.New(fault.Invalid, "read authorities of etcd: %w", err), "correct ETCD_CA_CERT_FILE")
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fault.Hint(fault.New(fault.Invalid, "read authorities of etcd: %s holds no certificate", c.CAFile), "ETCD_CA_CERT_FILE names a file in PEM format")
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fault.Hint(fault.New(fault.Invalid, "read certificate for etcd: %s and %s: %w", c.CertFile, c.KeyFile, err),
				"ETCD_CERT_FILE and ETCD_KEY_FILE name a certificate and its key in PEM format")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
