// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Config says where the API server is and who we are there.
type Config struct {
	// Server is its URL, as "https://10.96.0.1:443".
	Server string
	// ServerName is the name its certificate must hold; default that of Server.
	ServerName string
	// CA are the authorities of its certificate as PEM, CAFile a file with
	// them; default the machine's.
	CA     []byte
	CAFile string
	// Insecure has any certificate accepted.
	Insecure bool
	// Token says who we are, or TokenFile a file with it that may be replaced.
	Token, TokenFile string
	// Certificate says it by a certificate.
	Certificate Certificate
	// Program is run for a token or a certificate; it is asked before Token and
	// Certificate are. Clients may share one.
	Program *Program
	// As is whom we act as; default is who we are.
	As Impersonation
	// Proxy is the HTTP or SOCKS5 proxy to the server; default is what
	// HTTPS_PROXY and NO_PROXY say.
	Proxy *url.URL
	// Timeout bounds each request; default 8 s.
	Timeout time.Duration
	// Rate is how many requests a second we make at most, Burst how many at
	// once after a quiet time; defaults 50 and 200: a hundred pods that start
	// together must not wait for each other.
	Rate  float64
	Burst int
	// Log gets what no caller sees. Default none.
	Log *slog.Logger
}

// Certificate is a certificate and its key as PEM, or files with them.
type Certificate struct {
	Cert, Key         []byte
	CertFile, KeyFile string
}

func (c Certificate) given() bool { return len(c.Cert) > 0 || c.CertFile != "" }

func (c Certificate) load() (*tls.Certificate, error) {
	var err error
	if c.CertFile != "" {
		if c.Cert, err = os.ReadFile(c.CertFile); err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
	}
	if c.KeyFile != "" {
		if c.Key, err = os.ReadFile(c.KeyFile); err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
	}
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return &pair, nil
}

// verify checks the server's certificate with the authorities as they are now.
func (c Config) verify(state tls.ConnectionState) error {
	ca := c.CA
	if c.CAFile != "" {
		var err error
		if ca, err = os.ReadFile(c.CAFile); err != nil {
			return fmt.Errorf("read authorities: %w", err)
		}
	}
	options := x509.VerifyOptions{DNSName: state.ServerName, Intermediates: x509.NewCertPool()}
	if len(ca) > 0 {
		options.Roots = x509.NewCertPool()
		if !options.Roots.AppendCertsFromPEM(ca) {
			return fmt.Errorf("read authorities: no certificate in PEM format")
		}
	}
	for _, cert := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(options)
	return err
}

func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = 8 * time.Second
	}
	if c.Rate == 0 {
		c.Rate = 50
	}
	if c.Burst == 0 {
		c.Burst = 200
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// validate says whether c can be used, and reads the server's URL.
func (c Config) validate() (*url.URL, error) {
	u, err := url.Parse(c.Server)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil {
		return nil, fault.Hint(fault.New(fault.Invalid, "API server %q: not a URL of one", c.Server), "use https://ADDRESS:PORT")
	}
	if err := c.As.validate(); err != nil {
		return nil, err
	}
	return u, nil
}

// serviceAccount is where the kubelet mounts a pod's credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// InCluster is the configuration of a program in a pod, from the environment
// and the files the kubelet gives it; root is where their tree begins, "/" but
// for tests. Outside a pod it is Invalid.
func InCluster(getenv func(string) string, root string) (Config, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		err := fault.New(fault.Invalid, "environment variable KUBERNETES_SERVICE_HOST or _PORT: not set, and no KUBECONFIG")
		return Config{}, fault.Hint(err, "Run in a pod, or name a file with KUBECONFIG.")
	}
	dir := path.Join(root, serviceAccount)
	return Config{
		Server: "https://" + net.JoinHostPort(host, port),
		CAFile: path.Join(dir, "ca.crt"), TokenFile: path.Join(dir, "token"),
	}, nil
}

// FromEnvironment is the configuration of the files KUBECONFIG names, else InCluster's.
func FromEnvironment(getenv func(string) string) (Config, error) {
	if file := getenv("KUBECONFIG"); file != "" {
		return FromKubeconfig(Choice{}, filepath.SplitList(file)...)
	}
	return InCluster(getenv, "/")
}
