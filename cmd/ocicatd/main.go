// SPDX-License-Identifier: Apache-2.0

// Command ocicatd is the agent of one node.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/ocicat-net/ocicat/api/meta"
	v3 "github.com/ocicat-net/ocicat/api/v3"
	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/buildinfo"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ocicatd: error:", err)
		if hint := fault.HintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, "ocicatd: hint:", hint)
		}
		os.Exit(fault.KindOf(err).ExitCode())
	}
}

type options struct {
	runDir, stateDir, passwords string
	level                       slog.Level
	format                      string
	version                     bool
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("ocicatd", flag.ContinueOnError)
	f.StringVar(&o.runDir, "run-dir", "/run/ocicat", "sockets, journal and restart state; must not survive a reboot")
	f.StringVar(&o.stateDir, "state-dir", "/var/lib/ocicat", "instance and local copy of the datastore; must survive a reboot")
	f.StringVar(&o.passwords, "bgp-passwords", "", "`file` with TCP MD5 passwords by BGPPeer name, mode 0600")
	f.TextVar(&o.level, "log-level", slog.LevelInfo, "DEBUG, INFO, WARN or ERROR")
	f.StringVar(&o.format, "log-format", "text", "text or json")
	f.BoolVar(&o.version, "version", false, "print the version and end")
	if err := f.Parse(args); err != nil {
		return o, fault.New(fault.Invalid, "%w", err)
	}
	if f.NArg() > 0 {
		return o, fault.Hint(fault.New(fault.Invalid, "unexpected argument %q", f.Arg(0)), "ocicatd takes flags only: ocicatd -help")
	}
	if o.format != "text" && o.format != "json" {
		return o, fault.Hint(fault.New(fault.Invalid, "-log-format %q: unknown", o.format), "Choose text or json.")
	}
	return o, nil
}

func run(args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.version {
		fmt.Println("ocicatd", buildinfo.Read().Version)
		return nil
	}
	log := newLog(o)
	cfg, err := configure(o, log)
	if err != nil {
		return err
	}
	defer cfg.Store.Close()
	a, err := agent.New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return a.Run(ctx)
}

func newLog(o options) *slog.Logger {
	opts := &slog.HandlerOptions{Level: o.level}
	if o.format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

func configure(o options, log *slog.Logger) (agent.Config, error) {
	st, err := etcd.New(etcd.Config{Endpoints: strings.Split(os.Getenv("ETCD_ENDPOINTS"), ","), Log: log})
	if err != nil {
		return agent.Config{}, err
	}
	cfg := agent.Config{
		Node: cluster.NodeName(os.Getenv("NODENAME")), RunDir: o.runDir, StateDir: o.stateDir, Store: st, Log: log,
		Address:  func(map[string]host.Link) (netip.Prefix, error) { return netip.ParsePrefix(os.Getenv("IP")) },
		Settings: cluster.Settings{RouteProtocol: host.ProtoBird, InterfacePrefix: "cali", PermGateway: os.Getenv("OCICAT_PERM_GATEWAY") != "false"},
		Reserve:  16,
	}
	if cidr := os.Getenv("CALICO_IPV4POOL_CIDR"); cidr != "" {
		cfg.DefaultPools = []*v3.IPPool{{Type: meta.Type{APIVersion: v3.APIVersion, Kind: v3.KindIPPool}, Metadata: meta.Object{Name: "default-ipv4-ippool"}, Spec: v3.IPPoolSpec{CIDR: cidr}}}
	}
	if o.passwords != "" {
		cfg.Passwords, err = agent.ReadPasswords(o.passwords)
	}
	return cfg, err
}
