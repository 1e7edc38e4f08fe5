// SPDX-License-Identifier: Apache-2.0

// Command ocicat-etcd is a real etcd server with one member, for the lab and
// for single machines.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ocicat-net/ocicat/internal/buildinfo"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/store/embed"
)

const usage = `ocicat-etcd runs the etcd server of an Ocicat lab or single machine: one
member, compacted every hour. It ends on SIGTERM and keeps its data.

Usage:
  ocicat-etcd --data-dir DIR --listen URL [--listen URL ...] [flags]

Flags:
  --data-dir DIR      directory of the data, made if missing
  --listen URL        address to serve on, https://IP:PORT, http://IP:PORT or
                      unix:///PATH; sockets are made with mode 0600; may be
                      repeated
  --cert-file FILE    certificate shown to clients of https addresses, PEM
  --key-file FILE     its key, PEM
  --client-ca FILE    authorities of the certificates clients must show, PEM
                      (default: none is asked for)
  --quota MIB         MiB of data after which writes are refused (default 2048)
  --unsafe-no-fsync   do not wait for the disk; for labs whose data may die with
                      the machine
  --log-level LEVEL   level of etcd's log: debug, info, warn (default) or error
  --ready-file FILE   file that exists while the server serves
  --ready-fd FD       descriptor that gets the line "ready" once the server serves
                      and is closed then
  --version           print the version and end
`

// options are the parsed command line.
type options struct {
	server    embed.Config
	quotaMiB  int64
	readyFile string
	readyFD   int
	version   bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return
	}
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "ocicat-etcd: error:", err)
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintln(os.Stderr, "ocicat-etcd: hint:", hint)
	}
	os.Exit(fault.KindOf(err).ExitCode())
}

// run serves until ctx ends or the server fails.
func run(ctx context.Context, args []string) (err error) {
	opts, err := parse(args)
	if err != nil {
		return err
	}
	if opts.version {
		fmt.Println("ocicat-etcd", buildinfo.Read().Version)
		return nil
	}
	syscall.Umask(0o077) // data and sockets are the owner's alone
	if err := opts.unready(); err != nil {
		return err
	}
	server, err := embed.Start(ctx, opts.server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opts.unready(), server.Close()) }()
	if err := opts.ready(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-server.Failed():
		return fault.New(fault.Internal, "serve: %w", err)
	}
}

func parse(args []string) (options, error) {
	const hint = `"ocicat-etcd --help" lists the flags`
	var opts options
	flags := flag.NewFlagSet("ocicat-etcd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&opts.server.Dir, "data-dir", "", "")
	flags.Func("listen", "", func(text string) error {
		opts.server.Listen = append(opts.server.Listen, text)
		return nil
	})
	flags.StringVar(&opts.server.CertFile, "cert-file", "", "")
	flags.StringVar(&opts.server.KeyFile, "key-file", "", "")
	flags.StringVar(&opts.server.ClientCA, "client-ca", "", "")
	flags.Int64Var(&opts.quotaMiB, "quota", 2048, "")
	flags.BoolVar(&opts.server.NoFsync, "unsafe-no-fsync", false, "")
	flags.StringVar(&opts.server.LogLevel, "log-level", "warn", "")
	flags.StringVar(&opts.readyFile, "ready-file", "", "")
	flags.IntVar(&opts.readyFD, "ready-fd", -1, "")
	flags.BoolVar(&opts.version, "version", false, "")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return options{}, err
		}
		return options{}, fault.Hint(fault.New(fault.Invalid, "%w", err), hint)
	}
	if flags.NArg() > 0 {
		return options{}, fault.Hint(fault.New(fault.Invalid, "argument %q: unexpected", flags.Arg(0)), hint)
	}
	opts.server.Quota = opts.quotaMiB << 20
	return opts, nil
}

// ready tells who waits that the server serves.
func (o options) ready() error {
	if o.readyFile != "" {
		draft := o.readyFile + ".new"
		if err := os.WriteFile(draft, []byte("ready\n"), 0o600); err != nil {
			return fault.New(fault.Internal, "write ready file: %w", err)
		}
		if err := os.Rename(draft, o.readyFile); err != nil {
			return fault.New(fault.Internal, "write ready file: %w", err)
		}
	}
	if o.readyFD >= 0 {
		pipe := os.NewFile(uintptr(o.readyFD), "ready-fd")
		_, err := fmt.Fprintln(pipe, "ready")
		if err = errors.Join(err, pipe.Close()); err != nil {
			return fault.New(fault.Invalid, "write to ready-fd: %w", err)
		}
	}
	return nil
}

// unready removes the ready file.
func (o options) unready() error {
	if o.readyFile == "" {
		return nil
	}
	if err := os.Remove(o.readyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.Internal, "remove ready file: %w", err)
	}
	return nil
}
