// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/bgp"
	"github.com/ocicat-net/ocicat/internal/speaker"
)

// peersProcess is what the process with the peers is started as.
const peersProcess = "peers"

// peerCount is how many nodes the measured one has a session with.
const peerCount = 50

// nodeAddr is the measured node's address.
var nodeAddr = netip.MustParsePrefix("192.168.0.11/24")

// announced is where the peers' blocks begin; the pool begins at 172.16.0.0.
var announced = netip.MustParseAddr("172.20.0.0")

// peerAddr is the i-th peer's address.
func peerAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 0, byte(100 + i)}) }

// peerNodes are the peers as resources.
func peerNodes() string {
	var b strings.Builder
	for i := range peerCount {
		fmt.Fprintf(&b, "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: peer-%d\nspec:\n  bgp:\n    ipv4Address: %s/24\n", i, peerAddr(i))
	}
	return b.String()
}

// startPeers starts the peers in a network namespace at the other end of the
// node's uplink, and returns once they run. -rounds is how many blocks each
// announces.
func startPeers(ctx context.Context, o options, blocksEach int) (*exec.Cmd, error) {
	ready := filepath.Join(o.dir, "peers.ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-one", peersProcess, "-dir", o.dir, "-rounds", strconv.Itoa(blocksEach))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // it ends with the PID namespace
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := runCommand(ctx, "ip", "link", "set", "wire", "netns", strconv.Itoa(cmd.Process.Pid)); err != nil {
		return cmd, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return cmd, poll(ctx, func() error {
		_, err := os.Stat(ready)
		return err
	})
}

// runCommand runs one command for its effect.
func runCommand(ctx context.Context, words ...string) error {
	if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, out)
	}
	return nil
}

// peers is the process of the peers: speakers without a kernel behind them.
func peers(ctx context.Context, o options) error {
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := poll(wait, func() error {
		_, err := net.InterfaceByName("wire")
		return err
	})
	if err != nil {
		return err
	}
	for i := range peerCount {
		if err := runCommand(ctx, "ip", "addr", "add", peerAddr(i).String()+"/24", "dev", "wire"); err != nil {
			return err
		}
	}
	if err := runCommand(ctx, "ip", "link", "set", "wire", "up"); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	for i := range peerCount {
		s := bgp.New(bgp.Options{Log: log, BootID: "bench"})
		s.Set(peerConfig(i, o.rounds))
		go func() { _ = s.Run(ctx) }()
		<-s.Ready()
	}
	if err := os.WriteFile(filepath.Join(o.dir, "peers.ready"), nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// peerConfig lets the i-th peer announce its share of the blocks.
func peerConfig(i, blocks int) speaker.Config {
	c := speaker.Config{
		AS: 64512, RouterID: peerAddr(i), Listen: netip.AddrPortFrom(peerAddr(i), speaker.DefaultPort), Complete: true,
		Peers: []speaker.Peer{{
			Addr: nodeAddr.Addr(), AS: 64512, Name: "bench", Kind: speaker.Mesh, LocalAddr: peerAddr(i),
			Hold: speaker.DefaultHold, Keepalive: speaker.DefaultKeepalive, RestartTime: speaker.DefaultRestartTime,
		}},
	}
	first := uint32(0)
	for _, b := range announced.As4() {
		first = first<<8 | uint32(b)
	}
	for n := range blocks {
		at := first + uint32(i*blocks+n)<<6
		c.Advertise = append(c.Advertise, speaker.Advertisement{
			Prefix:  netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(at >> 24), byte(at >> 16), byte(at >> 8), byte(at)}), 26),
			NextHop: peerAddr(i),
		})
	}
	return c
}

// endPeers kills the peers and brings the uplink back.
func endPeers(ctx context.Context, cmd *exec.Cmd) error {
	_ = unix.Kill(cmd.Process.Pid, unix.SIGKILL)
	_ = cmd.Wait()
	// The veth dies with their namespace, behind their end.
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := poll(wait, func() error {
		if _, err := net.InterfaceByName("ens160"); err == nil {
			return errors.New("the uplink is still there")
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, line := range uplink {
		if err := runCommand(ctx, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}
