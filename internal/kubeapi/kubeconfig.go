// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"encoding/base64"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// kubeconfig is what we read of a file of kubectl.
type kubeconfig struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string
		Context struct{ Cluster, User string }
	}
	Clusters []struct {
		Name    string
		Cluster struct {
			Server     string
			ServerName string `yaml:"tls-server-name"`
			CAFile     string `yaml:"certificate-authority"`
			CA         string `yaml:"certificate-authority-data"`
			Insecure   bool   `yaml:"insecure-skip-tls-verify"`
		}
	}
	Users []struct {
		Name string
		User struct {
			Token     string
			TokenFile string         `yaml:"tokenFile"`
			CertFile  string         `yaml:"client-certificate"`
			Cert      string         `yaml:"client-certificate-data"`
			KeyFile   string         `yaml:"client-key"`
			Key       string         `yaml:"client-key-data"`
			Username  string         `yaml:"username"`
			Exec      map[string]any `yaml:"exec"`
			Provider  map[string]any `yaml:"auth-provider"`
		}
	}
}

// FromKubeconfig is the configuration of a file's current context. A file that
// cannot be read is Invalid; credentials from a program or a provider are
// Unsupported.
func FromKubeconfig(file string) (Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return Config{}, fault.New(fault.Invalid, "read KUBECONFIG: %w", err)
	}
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return Config{}, fault.New(fault.Invalid, "read KUBECONFIG %s: %w", file, err)
	}
	cfg, err := k.config(filepath.Dir(file))
	if err != nil {
		return Config{}, fault.New(fault.KindOf(err), "read KUBECONFIG %s: %w", file, err)
	}
	return cfg, nil
}

// config is the configuration of the current context; dir is where relative
// files are.
func (k kubeconfig) config(dir string) (Config, error) {
	for _, c := range k.Contexts {
		if c.Name != k.Current {
			continue
		}
		var cfg Config
		if err := k.server(c.Context.Cluster, dir, &cfg); err != nil {
			return Config{}, err
		}
		err := k.user(c.Context.User, dir, &cfg)
		return cfg, err
	}
	return Config{}, fault.Hint(fault.New(fault.Invalid, "current-context %q: no such context", k.Current), "Choose one with kubectl config use-context.")
}

func (k kubeconfig) server(name, dir string, cfg *Config) error {
	for _, c := range k.Clusters {
		if c.Name != name {
			continue
		}
		cfg.Server, cfg.ServerName, cfg.Insecure = c.Cluster.Server, c.Cluster.ServerName, c.Cluster.Insecure
		cfg.CAFile = absolute(dir, c.Cluster.CAFile)
		return decode("certificate-authority-data", c.Cluster.CA, &cfg.CA)
	}
	return fault.New(fault.Invalid, "cluster %q: no such cluster", name)
}

func (k kubeconfig) user(name, dir string, cfg *Config) error {
	for _, u := range k.Users {
		if u.Name != name {
			continue
		}
		if len(u.User.Exec) > 0 || len(u.User.Provider) > 0 || u.User.Username != "" {
			err := fault.New(fault.Unsupported, "user %q: credentials of a program, a provider or a password", name)
			return fault.Hint(err, "Use a token or a certificate, as kubectl create token gives one.")
		}
		cfg.Token, cfg.TokenFile = u.User.Token, absolute(dir, u.User.TokenFile)
		cfg.Certificate.CertFile, cfg.Certificate.KeyFile = absolute(dir, u.User.CertFile), absolute(dir, u.User.KeyFile)
		if err := decode("client-certificate-data", u.User.Cert, &cfg.Certificate.Cert); err != nil {
			return err
		}
		return decode("client-key-data", u.User.Key, &cfg.Certificate.Key)
	}
	return fault.New(fault.Invalid, "user %q: no such user", name)
}

func absolute(dir, file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

func decode(field, text string, into *[]byte) error {
	if text == "" {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fault.New(fault.Invalid, "%s: %w", field, err)
	}
	*into = data
	return nil
}
