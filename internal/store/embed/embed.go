// SPDX-License-Identifier: Apache-2.0

// Package embed runs the real etcd server inside a program: one member, for
// the lab and for single machines. Only cmd/ocicat-etcd and tests may link
// it, because it brings more code than all the rest of Ocicat.
package embed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// Config says how the server runs.
type Config struct {
	Dir      string   // data directory; made with mode 0700 if missing
	Listen   []string // "https://192.0.2.1:2379", "http://192.0.2.1:2379" or "unix:///run/etcd.sock", at least one
	CertFile string   // certificate shown to clients of https addresses, PEM
	KeyFile  string   // its key, PEM
	ClientCA string   // authorities of the certificates clients must show; "" asks for none
	Quota    int64    // bytes of data after which writes are refused; 0 is etcd's default, 2 GiB
	NoFsync  bool     // do not wait for the disk: data survives the process, not the machine
	LogLevel string   // debug, info, warn or error; default warn
	Log      *os.File // where etcd's log goes; default standard error
}

// Times of raft, in milliseconds. A single member has nobody to wait for, so
// it may elect itself sooner than etcd's defaults for clusters allow.
const (
	tickMillis     = 20
	electionMillis = 200
)

// name is the member's, fixed: it is the only one.
const name = "ocicat"

// placeholder stands where etcd wants the address of a member towards the
// others. Nothing listens there.
const placeholder = "http://127.0.0.1:2380"

// Server is a running etcd. Make one with Start.
type Server struct {
	etcd  *embed.Etcd
	lock  *os.File
	level zap.AtomicLevel
}

// Start starts the server and returns once it serves all its addresses, or
// with an error: Invalid for an unusable Config, Conflict if another server
// has the directory, Unavailable if ctx ended first. Sockets end up with mode
// 0600; what they have in between is up to the process's umask.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	settings, err := cfg.settings()
	if err != nil {
		return nil, err
	}
	level, err := cfg.logTo(settings)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	etcd, err := embed.StartEtcd(settings)
	if err != nil {
		_ = lock.Close()
		return nil, fault.New(fault.Internal, "start etcd: %w", err)
	}
	s := &Server{etcd: etcd, lock: lock, level: level}
	select {
	case <-etcd.Server.ReadyNotify():
		err = restrictSockets(settings.ListenClientUrls)
		if err == nil {
			return s, nil
		}
	case err = <-etcd.Err():
	case <-etcd.Server.StopNotify():
		err = errors.New("it stopped by itself")
	case <-ctx.Done():
		err = fault.New(fault.Unavailable, "%w", context.Cause(ctx))
	}
	return nil, fmt.Errorf("start etcd: %w", errors.Join(err, s.Close()))
}

// Failed delivers an error if the server fails.
func (s *Server) Failed() <-chan error { return s.etcd.Err() }

// Close stops the server after the requests it has begun, and waits for it.
func (s *Server) Close() error {
	s.level.SetLevel(zap.FatalLevel) // etcd calls each listener it closes an error
	s.etcd.Close()
	<-s.etcd.Server.StopNotify()
	if err := s.lock.Close(); err != nil {
		return fault.New(fault.Internal, "unlock data directory: %w", err)
	}
	return nil
}

func (c Config) settings() (*embed.Config, error) {
	if c.Dir == "" {
		return nil, fault.Hint(fault.New(fault.Invalid, "data directory: none given"), "name one with --data-dir")
	}
	if c.Quota < 0 {
		return nil, fault.Hint(fault.New(fault.Invalid, "quota of %d bytes: negative", c.Quota), "use 0 for etcd's default")
	}
	listen, err := listenURLs(c.Listen)
	if err != nil {
		return nil, err
	}
	for _, u := range listen {
		if u.Scheme == "https" && (c.CertFile == "" || c.KeyFile == "") {
			return nil, fault.Hint(fault.New(fault.Invalid, "listen address %q: no certificate", &u), "give --cert-file and --key-file")
		}
	}
	peer, err := url.Parse(placeholder)
	if err != nil {
		return nil, fault.New(fault.Internal, "address of the only member: %w", err)
	}
	s := embed.NewConfig()
	s.Name = name
	s.Dir = c.Dir
	s.ListenClientUrls, s.AdvertiseClientUrls = listen, listen
	s.ListenPeerUrls, s.AdvertisePeerUrls = nil, []url.URL{*peer}
	s.InitialCluster = name + "=" + placeholder
	s.TickMs, s.ElectionMs = tickMillis, electionMillis
	s.AutoCompactionMode, s.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	s.QuotaBackendBytes = c.Quota
	s.UnsafeNoFsync = c.NoFsync
	s.EnableGRPCGateway = false
	tls := &s.ClientTLSInfo
	tls.CertFile, tls.KeyFile, tls.TrustedCAFile, tls.ClientCertAuth = c.CertFile, c.KeyFile, c.ClientCA, c.ClientCA != ""
	return s, nil
}

// restrictSockets lets only their owner use the sockets among listen.
func restrictSockets(listen []url.URL) error {
	for _, u := range listen {
		if u.Scheme != "unix" {
			continue
		}
		if err := os.Chmod(u.Path, 0o600); err != nil {
			return fault.New(fault.Internal, "restrict socket: %w", err)
		}
	}
	return nil
}

// logTo makes etcd's log plain text without stack traces and returns its
// level.
func (c Config) logTo(s *embed.Config) (zap.AtomicLevel, error) {
	if c.LogLevel == "" {
		c.LogLevel = "warn"
	}
	level, err := zap.ParseAtomicLevel(c.LogLevel)
	if err != nil || level.Level() > zap.ErrorLevel {
		return level, fault.Hint(fault.New(fault.Invalid, "log level %q: unknown", c.LogLevel), "use debug, info, warn or error")
	}
	out := c.Log
	if out == nil {
		out = os.Stderr
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.RFC3339TimeEncoder
	core := zapcore.NewCore(zapcore.NewConsoleEncoder(encoding), zapcore.Lock(out), level)
	s.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(core))
	return level, nil
}

func listenURLs(listen []string) ([]url.URL, error) {
	if len(listen) == 0 {
		return nil, fault.Hint(fault.New(fault.Invalid, "listen address: none given"), "name one with --listen")
	}
	urls := make([]url.URL, 0, len(listen))
	for _, text := range listen {
		u, err := url.Parse(text)
		if err != nil || !usable(u) {
			return nil, fault.Hint(fault.New(fault.Invalid, "listen address %q: not usable", text),
				"use https://IP:PORT, http://IP:PORT or unix:///PATH")
		}
		urls = append(urls, *u)
	}
	return urls, nil
}

func usable(u *url.URL) bool {
	switch u.Scheme {
	case "http", "https":
		_, err := netip.ParseAddrPort(u.Host)
		return err == nil && u.Path == ""
	case "unix":
		return u.Host == "" && strings.HasPrefix(u.Path, "/")
	}
	return false
}

// lockDir makes the data directory and locks it. etcd locks its file too, but
// only after it has taken over the sockets of the server before it, and then
// waits for ever.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.Internal, "make data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.New(fault.Internal, "lock data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fault.New(fault.Conflict, "lock data directory %s: another server runs on it", dir)
	}
	return lock, nil
}
