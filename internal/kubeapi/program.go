// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// execConfig is a program that gives credentials, as a file of kubectl has it.
type execConfig struct {
	APIVersion  string   `yaml:"apiVersion"`
	Command     string   `yaml:"command"`
	Args        []string `yaml:"args"`
	Env         []execVariable
	InstallHint string `yaml:"installHint"`
	Interactive string `yaml:"interactiveMode"`
	WithCluster bool   `yaml:"provideClusterInfo"`
}

type execVariable struct{ Name, Value string }

// execVersions are the versions of client.authentication.k8s.io we speak.
var execVersions = []string{"client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"}

// Values of interactiveMode.
const (
	interactiveNever       = "Never"
	interactiveIfAvailable = "IfAvailable"
	interactiveAlways      = "Always"
)

// program is what the file says, for the server of cfg.
func (e execConfig) program(cfg Config) (*Program, error) {
	if !slices.Contains(execVersions, e.APIVersion) {
		err := fault.New(fault.Unsupported, "exec: apiVersion %q", e.APIVersion)
		return nil, fault.Hint(err, "Have the program's maker write %s.", strings.Join(execVersions, " or "))
	}
	if e.Command == "" {
		return nil, fault.New(fault.Invalid, "exec: command: not set")
	}
	mode := cmp.Or(e.Interactive, interactiveIfAvailable)
	if !slices.Contains([]string{interactiveNever, interactiveIfAvailable, interactiveAlways}, mode) {
		return nil, fault.New(fault.Invalid, "exec: interactiveMode %q: want Never, IfAvailable or Always", mode)
	}
	p := &Program{command: e.Command, args: e.Args, version: e.APIVersion, installHint: e.InstallHint, interactive: mode}
	for _, v := range e.Env {
		p.env = append(p.env, v.Name+"="+v.Value)
	}
	if e.WithCluster {
		ca, err := cfg.authorities()
		if err != nil {
			return nil, fault.New(fault.Invalid, "exec: %w", err)
		}
		p.cluster = &execCluster{Server: cfg.Server, ServerName: cfg.ServerName, Insecure: cfg.Insecure, CA: ca}
		if cfg.Proxy != nil {
			p.cluster.Proxy = cfg.Proxy.String()
		}
	}
	return p, nil
}

// authorities are those of the server's certificate, as PEM.
func (c Config) authorities() ([]byte, error) {
	if c.CAFile == "" {
		return c.CA, nil
	}
	return os.ReadFile(c.CAFile)
}

// execInfo is what a program is told in KUBERNETES_EXEC_INFO.
type execInfo struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Cluster     *execCluster `json:"cluster,omitempty"`
		Interactive bool         `json:"interactive"`
	} `json:"spec"`
}

type execCluster struct {
	Server     string `json:"server"`
	ServerName string `json:"tls-server-name,omitempty"`
	Insecure   bool   `json:"insecure-skip-tls-verify,omitempty"`
	CA         []byte `json:"certificate-authority-data,omitempty"`
	Proxy      string `json:"proxy-url,omitempty"`
}

// execKind is the kind of what programs are told and what they answer.
const execKind = "ExecCredential"

// Program is a program of the user's that says who we are, as
// client.authentication.k8s.io describes it: it prints a token or a certificate,
// and until when they are good. It is safe for concurrent use; what it gave is
// kept in memory alone.
type Program struct {
	// Stdin is a terminal on which the program may ask, nil for none; Stderr is
	// where it says what it asks, nil for nowhere. Set them before it is run.
	Stdin  io.Reader
	Stderr io.Writer

	command     string
	args, env   []string
	version     string
	installHint string
	interactive string
	cluster     *execCluster

	mu   sync.Mutex
	have bool
	last given
}

// given is what a program gave.
type given struct {
	token string
	pair  *tls.Certificate
	until time.Time // zero for as long as we live
}

// Bounds of a program in the middle of a request, and of what it prints.
const (
	programTimeout = 30 * time.Second
	programOutput  = 1 << 20
)

// Login runs the program if what it gave is missing or over: people may have to
// answer it, for which a request does not wait.
func (p *Program) Login(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.refresh(ctx, time.Now())
	return err
}

// get is what is good at now.
func (p *Program) get(now time.Time) (given, error) {
	ctx, cancel := context.WithTimeout(context.Background(), programTimeout)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refresh(ctx, now)
}

// certificate is the one to show, or none.
func (p *Program) certificate() (*tls.Certificate, error) {
	g, err := p.get(time.Now())
	if err != nil || g.pair == nil {
		return &tls.Certificate{}, err
	}
	return g.pair, nil
}

// forget drops what the server does not accept; token tells it from what came
// meanwhile.
func (p *Program) forget(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.token == token {
		p.have = false
	}
}

func (p *Program) refresh(ctx context.Context, now time.Time) (given, error) {
	if p.have && (p.last.until.IsZero() || now.Before(p.last.until)) {
		return p.last, nil
	}
	out, err := p.run(ctx)
	if err != nil {
		return given{}, err
	}
	g, err := parseGiven(out, p.version)
	if err != nil {
		return given{}, fault.New(fault.Unavailable, "credentials of %s: %w", p.command, err)
	}
	p.last, p.have = g, true
	return g, nil
}

// run runs the program and returns what it prints.
func (p *Program) run(ctx context.Context) ([]byte, error) {
	if p.interactive == interactiveAlways && p.Stdin == nil {
		return nil, fault.Hint(fault.New(fault.Invalid, "credentials of %s: it asks at a terminal, and there is none", p.command), "Run the command on a terminal.")
	}
	info := execInfo{APIVersion: p.version, Kind: execKind}
	info.Spec.Cluster = p.cluster
	info.Spec.Interactive = p.Stdin != nil && p.interactive != interactiveNever
	text, err := json.Marshal(info)
	if err != nil {
		return nil, fault.New(fault.Internal, "credentials of %s: %w", p.command, err)
	}
	cmd := exec.CommandContext(ctx, p.command, p.args...)
	cmd.Env = append(append(os.Environ(), p.env...), "KUBERNETES_EXEC_INFO="+string(text))
	cmd.WaitDelay = time.Second // children of its own may hold its output open
	if info.Spec.Interactive {
		cmd.Stdin = p.Stdin
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, p.Stderr
	if err := cmd.Run(); err != nil {
		return nil, p.failure(ctx, err)
	}
	if out.Len() > programOutput {
		return nil, fault.New(fault.Unavailable, "credentials of %s: it prints %d bytes", p.command, out.Len())
	}
	return out.Bytes(), nil
}

// failure says why the program gave nothing.
func (p *Program) failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
		return fault.Hint(fault.New(fault.Unavailable, "credentials of %s: %w", p.command, err), "kubectl runs the same program: does \"kubectl get nodes\" work?")
	}
	hint := strings.TrimSpace(p.installHint)
	if hint == "" {
		hint = "Install the program that KUBECONFIG names, or correct its place."
	}
	return fault.Hint(fault.New(fault.Invalid, "credentials of %s: no such program", p.command), "%s", hint)
}

// parseGiven reads what a program of a version printed.
func parseGiven(out []byte, version string) (given, error) {
	var answer struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Status     struct {
			Token string    `json:"token"`
			Cert  string    `json:"clientCertificateData"`
			Key   string    `json:"clientKeyData"`
			Until time.Time `json:"expirationTimestamp"`
		} `json:"status"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return given{}, fault.New(fault.Invalid, "it does not print JSON: %w", err)
	}
	if answer.Kind != execKind || answer.APIVersion != version {
		return given{}, fault.New(fault.Invalid, "it prints %s %s: want %s %s", answer.APIVersion, answer.Kind, version, execKind)
	}
	g := given{token: answer.Status.Token, until: answer.Status.Until}
	if answer.Status.Cert != "" || answer.Status.Key != "" {
		pair, err := tls.X509KeyPair([]byte(answer.Status.Cert), []byte(answer.Status.Key))
		if err != nil {
			return given{}, fault.New(fault.Invalid, "its certificate: %w", err)
		}
		g.pair = &pair
	}
	if g.token == "" && g.pair == nil {
		return given{}, fault.New(fault.Invalid, "it prints neither token nor certificate")
	}
	if strings.ContainsAny(g.token, "\r\n") {
		return given{}, fault.New(fault.Invalid, "its token has more than one line")
	}
	return g, nil
}
