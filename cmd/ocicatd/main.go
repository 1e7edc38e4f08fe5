// SPDX-License-Identifier: Apache-2.0

// Command ocicatd is the agent of one node. Its settings are calico/node's
// environment variables (docs/environment.md); its flags say where its files
// are and how it logs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/buildinfo"
	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/env"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/ipam"
	"github.com/ocicat-net/ocicat/internal/storeopen"
	"github.com/ocicat-net/ocicat/internal/uplink"
)

func main() {
	err := run(os.Args[1:])
	if err == nil {
		return
	}
	printError(err)
	os.Exit(fault.KindOf(err).ExitCode())
}

// printError prints an error and its hint, or each of several.
func printError(err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			printError(one)
		}
		return
	}
	fmt.Fprintln(os.Stderr, "ocicatd: error:", err)
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintln(os.Stderr, "ocicatd: hint:", hint)
	}
}

type options struct {
	runDir, stateDir, passwords string
	procSys                     string
	level                       *slog.Level // nil: as the environment says
	format                      string
	permGateway                 bool
	lease                       time.Duration
	version                     bool
	install                     install.Config
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("ocicatd", flag.ContinueOnError)
	f.StringVar(&o.runDir, "run-dir", defaultRunDir, "sockets, journal and restart state; must not survive a reboot")
	f.StringVar(&o.stateDir, "state-dir", "/var/lib/ocicat", "instance and local copy of the datastore; must survive a reboot")
	f.StringVar(&o.passwords, "bgp-passwords", "", "`file` with TCP MD5 passwords by BGPPeer name, mode 0600")
	f.StringVar(&o.procSys, "proc-sys", "", "`directory` that holds the host's /proc/sys/net as net and can be written, where /proc/sys cannot: in a container without privileges")
	f.Func("log-level", "debug, info, warn or error (default as FELIX_LOGSEVERITYSCREEN says, else info)", func(s string) error {
		o.level = new(slog.Level)
		return o.level.UnmarshalText([]byte(s))
	})
	f.StringVar(&o.format, "log-format", "text", "text or json")
	f.BoolVar(&o.permGateway, "perm-gateway", os.Getenv("OCICAT_PERM_GATEWAY") != "false",
		"give pods a permanent neighbour for their gateway, so that they need no ARP (also OCICAT_PERM_GATEWAY)")
	f.DurationVar(&o.lease, "lease-time", ipam.LeaseTime,
		"how long addresses of the reserve are given without a heartbeat, and half of how long a node must be silent before its addresses are reclaimed; the same on all nodes (also OCICAT_LEASE_TIME)")
	f.BoolVar(&o.version, "version", false, "print the version and end")
	installFlags(f, &o)
	if text := os.Getenv("OCICAT_LEASE_TIME"); text != "" {
		if err := f.Set("lease-time", text); err != nil {
			return o, fault.Hint(fault.New(fault.Invalid, "environment variable OCICAT_LEASE_TIME: %q: not a duration", text), "Write it as 1h or 90m.")
		}
	}
	if err := f.Parse(args); err != nil {
		return o, fault.New(fault.Invalid, "%w", err)
	}
	if err := ipam.TimesFor(o.lease).Validate(); err != nil {
		return o, err
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
	if len(args) > 0 && args[0] == "controller" {
		return runController(args[1:])
	}
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
	cfg, err := configure(o)
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

func configure(o options) (agent.Config, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return agent.Config{}, fault.New(fault.Internal, "read hostname: %w", err)
	}
	e, problems, err := env.Parse(os.Environ(), hostname)
	if err != nil {
		return agent.Config{}, err
	}
	log := newLog(o, e.LogLevel)
	cfg := agent.Config{
		Node: cluster.NodeName(e.Node), RunDir: o.runDir, StateDir: o.stateDir, ProcSys: o.procSys, Log: log,
		Uplink: uplink.Policy{IP: e.IP, Method: e.Method, InterfacePrefix: e.InterfacePrefix, Reach: reach},
		Times:  ipam.TimesFor(o.lease),
		AS:     e.AS, RouterID: e.RouterID, DefaultPools: e.DefaultPools, AppliedEnv: e.PoolVariables, Environment: e, Problems: problems,
		Settings: cluster.Settings{RouteProtocol: host.ProtoBird, InterfacePrefix: e.InterfacePrefix, PermGateway: o.permGateway, Reserve: ipam.DefaultReserve},
	}
	cfg.Metrics, cfg.Health = e.Metrics, e.Health
	if cfg.Install, err = installation(o, e.CNI); err != nil {
		return cfg, err
	}
	if o.passwords != "" {
		if cfg.Passwords, err = agent.ReadPasswords(o.passwords); err != nil {
			return cfg, err
		}
	}
	choice := storeopen.Choice{Kubernetes: e.Kubernetes, Brief: true, Endpoints: e.EtcdEndpoints, Getenv: os.Getenv, Log: log}
	if e.Kubernetes {
		if choice.Client, err = joinKubernetes(&cfg, e.Admin); err != nil {
			return cfg, err
		}
	}
	cfg.Store, err = storeopen.Open(choice)
	return cfg, err
}

func newLog(o options, level slog.Level) *slog.Logger {
	if o.level != nil {
		level = *o.level
	}
	opts := &slog.HandlerOptions{Level: level}
	if o.format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

// reach is the address this host sends from to reach a destination, for
// IP_AUTODETECTION_METHOD=can-reach. Connecting a UDP socket sends nothing.
func reach(destination string) (netip.Addr, error) {
	conn, err := net.Dial("udp4", net.JoinHostPort(destination, "80"))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), nil
}
