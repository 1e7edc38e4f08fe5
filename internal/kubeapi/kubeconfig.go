// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"cmp"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
			Proxy      string `yaml:"proxy-url"`
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
			Password  string         `yaml:"password"`
			Exec      *execConfig    `yaml:"exec"`
			Provider  map[string]any `yaml:"auth-provider"`

			As       string              `yaml:"as"`
			AsUID    string              `yaml:"as-uid"`
			AsGroups []string            `yaml:"as-groups"`
			AsExtra  map[string][]string `yaml:"as-user-extra"`
		}
	}
}

// Choice says what of files of kubectl to use: by default what their current
// context names.
type Choice struct {
	// Context is the name of another one.
	Context string
	// Cluster and User are used instead of those of the context.
	Cluster, User string
}

// FromKubeconfig is the configuration chosen in files, which are joined
// as kubectl joins those of KUBECONFIG: what stands first counts, and of several
// a file may be missing. Files that
// cannot be used are Invalid; credentials of a provider or a password are
// Unsupported. A program that gives credentials is not run yet.
func FromKubeconfig(choice Choice, files ...string) (Config, error) {
	where := strings.Join(files, string(filepath.ListSeparator))
	k, err := readKubeconfigs(files)
	if err != nil {
		return Config{}, err
	}
	k.Current = cmp.Or(choice.Context, k.Current)
	cfg, err := k.config(choice)
	if err != nil {
		return Config{}, fault.New(fault.KindOf(err), "read KUBECONFIG %s: %w", where, err)
	}
	return cfg, nil
}

// readKubeconfigs reads and joins files.
func readKubeconfigs(files []string) (kubeconfig, error) {
	var all kubeconfig
	var missing error
	read := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && len(files) > 1 {
			missing = err
			continue
		}
		if err != nil {
			return kubeconfig{}, fault.New(fault.Invalid, "read KUBECONFIG: %w", err)
		}
		k, err := parseKubeconfig(data, filepath.Dir(file))
		if err != nil {
			return kubeconfig{}, fault.New(fault.Invalid, "read KUBECONFIG %s: %w", file, err)
		}
		all.join(k)
		read++
	}
	if read == 0 && missing != nil {
		return kubeconfig{}, fault.New(fault.Invalid, "read KUBECONFIG: %w", missing)
	}
	return all, nil
}

// parseKubeconfig reads a file's text; the files it names are relative to dir.
func parseKubeconfig(data []byte, dir string) (kubeconfig, error) {
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return kubeconfig{}, err
	}
	for i := range k.Clusters {
		c := &k.Clusters[i].Cluster
		c.CAFile = absolute(dir, c.CAFile)
	}
	for i := range k.Users {
		u := &k.Users[i].User
		u.TokenFile, u.CertFile, u.KeyFile = absolute(dir, u.TokenFile), absolute(dir, u.CertFile), absolute(dir, u.KeyFile)
		if u.Exec != nil && strings.ContainsRune(u.Exec.Command, filepath.Separator) {
			u.Exec.Command = absolute(dir, u.Exec.Command)
		}
	}
	return k, nil
}

// join adds what k says behind what is known: of two with the same name the
// first is found.
func (all *kubeconfig) join(k kubeconfig) {
	all.Current = cmp.Or(all.Current, k.Current)
	all.Contexts = append(all.Contexts, k.Contexts...)
	all.Clusters = append(all.Clusters, k.Clusters...)
	all.Users = append(all.Users, k.Users...)
}

// config is the configuration of the current context, but for what choice says.
func (all kubeconfig) config(choice Choice) (Config, error) {
	if choice.Cluster != "" && choice.User != "" && all.Current == "" {
		return all.both(choice.Cluster, choice.User)
	}
	var names []string
	for _, c := range all.Contexts {
		names = append(names, c.Name)
		if c.Name != all.Current {
			continue
		}
		return all.both(cmp.Or(choice.Cluster, c.Context.Cluster), cmp.Or(choice.User, c.Context.User))
	}
	if all.Current == "" {
		return Config{}, fault.Hint(fault.New(fault.Invalid, "current-context: not set"), "Choose one with kubectl config use-context; there are: %s.", strings.Join(names, ", "))
	}
	return Config{}, fault.Hint(fault.New(fault.Invalid, "context %q: no such context", all.Current), "There are: %s.", strings.Join(names, ", "))
}

// both is the configuration of a cluster and a user.
func (all kubeconfig) both(cluster, user string) (Config, error) {
	var cfg Config
	if err := all.server(cluster, &cfg); err != nil {
		return Config{}, err
	}
	err := all.user(user, &cfg)
	return cfg, err
}

func (all kubeconfig) server(name string, cfg *Config) error {
	for _, c := range all.Clusters {
		if c.Name != name {
			continue
		}
		cfg.Server, cfg.ServerName, cfg.Insecure = c.Cluster.Server, c.Cluster.ServerName, c.Cluster.Insecure
		cfg.CAFile = c.Cluster.CAFile
		var err error
		if cfg.Proxy, err = parseProxy(c.Cluster.Proxy); err != nil {
			return fault.New(fault.Invalid, "cluster %q: %w", name, err)
		}
		return decode("certificate-authority-data", c.Cluster.CA, &cfg.CA)
	}
	return fault.New(fault.Invalid, "cluster %q: no such cluster", name)
}

func (all kubeconfig) user(name string, cfg *Config) error {
	if name == "" {
		return nil // a server that asks nobody who they are
	}
	for _, u := range all.Users {
		if u.Name != name {
			continue
		}
		if len(u.User.Provider) > 0 || u.User.Username != "" || u.User.Password != "" {
			err := fault.New(fault.Unsupported, "user %q: credentials of a provider or a password", name)
			return fault.Hint(err, "Use a token, a certificate, or a program (exec).")
		}
		cfg.As = Impersonation{User: u.User.As, UID: u.User.AsUID, Groups: u.User.AsGroups, Extra: u.User.AsExtra}
		if err := cfg.As.validate(); err != nil {
			return fault.New(fault.Invalid, "user %q: %w", name, err)
		}
		cfg.Token, cfg.TokenFile = u.User.Token, u.User.TokenFile
		cfg.Certificate.CertFile, cfg.Certificate.KeyFile = u.User.CertFile, u.User.KeyFile
		if err := decode("client-certificate-data", u.User.Cert, &cfg.Certificate.Cert); err != nil {
			return err
		}
		if err := decode("client-key-data", u.User.Key, &cfg.Certificate.Key); err != nil {
			return err
		}
		if u.User.Exec == nil {
			return nil
		}
		var err error
		if cfg.Program, err = u.User.Exec.program(*cfg); err != nil {
			return fault.New(fault.KindOf(err), "user %q: %w", name, err)
		}
		return nil
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
