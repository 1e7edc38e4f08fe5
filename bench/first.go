// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/lab"
	"github.com/ocicat-net/ocicat/internal/netns"
)

// labContender is the plugin with the agent of a lab's node behind it.
type labContender struct {
	*ocicat
	socket string
}

func (c labContender) conf() string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"ocicat","type":"ocicat-cni","socket":%q}`, c.socket)
}

// firstReply is the suite of the time from the start of an ADD on one node
// until its pod answers another node.
func firstReply(ctx context.Context, o options) (r result, err error) {
	l, err := lab.New(lab.Config{Name: fmt.Sprintf("bench%d", os.Getpid()), Root: filepath.Join(o.dir, "lab"), BinDir: o.bin})
	if err != nil {
		return r, err
	}
	topology, err := lab.Article(2)
	if err != nil {
		return r, err
	}
	defer func() {
		_, downErr := l.Down(context.WithoutCancel(ctx))
		err = errors.Join(err, downErr)
	}()
	if err := l.Up(ctx, topology, nil); err != nil {
		return r, err
	}
	from, err := netns.Open(filepath.Join("/run/netns", l.Name()+"."+topology.Nodes[1].Name))
	if err != nil {
		return r, err
	}
	defer from.Close()
	peer, err := kernel.OpenAt(from)
	if err != nil {
		return r, err
	}
	defer peer.Close()
	watch, err := watchRoutes(ctx, peer)
	if err != nil {
		return r, err
	}
	pods := 200
	if o.quick {
		pods = 70
	}
	c := labContender{&ocicat{bin: o.bin, dir: o.dir}, filepath.Join(filepath.Dir(l.AdminSocket(topology.Nodes[0].Name)), "cni.sock")}
	fresh, later, err := c.replies(ctx, from, pods)
	if err != nil {
		return r, err
	}
	events := watch.end()
	r.Figures = []figure{
		atMost(fmt.Sprintf("first reply, first pod of a block, worst of %d", len(fresh)), fresh.percentile(100), 15, "ms"),
		atMost(fmt.Sprintf("first reply, later pods, median of %d", len(later)), later.percentile(50), 15, "ms"),
		informs("first reply, later pods, p99", later.percentile(99), "ms"),
		atMost(fmt.Sprintf("route events on the peer for %d pods, beyond one per block", pods), float64(max(0, events-len(fresh))), 0, ""),
	}
	return r, nil
}

// replies attaches pods one after the other and waits for each one's answer.
func (c labContender) replies(ctx context.Context, from *os.File, count int) (fresh, later samples, err error) {
	seen := map[netip.Prefix]bool{}
	for range count {
		pods, err := newPods(1)
		if err != nil {
			return nil, nil, err
		}
		defer pods[0].ns.Close()
		begin := time.Now()
		addr, err := c.add(ctx, pods[0])
		if err != nil {
			return nil, nil, err
		}
		if err := awaitReply(ctx, from, addr); err != nil {
			return nil, nil, err
		}
		took := time.Since(begin)
		block := netip.PrefixFrom(addr, 26).Masked()
		if seen[block] {
			later = append(later, took)
		} else {
			fresh = append(fresh, took)
		}
		seen[block] = true
	}
	return fresh, later, nil
}

// add attaches a pod and returns its address.
func (c labContender) add(ctx context.Context, p pod) (netip.Addr, error) {
	out, err := command(ctx, c, "ADD", p).Output()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ADD: %w: %s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), `"address":"`)
	if rest == "" {
		_, rest, _ = strings.Cut(string(out), `"address": "`)
	}
	text, _, _ := strings.Cut(rest, "/")
	return netip.ParseAddr(text)
}

// awaitReply pings addr from a namespace until it answers.
func awaitReply(ctx context.Context, from *os.File, addr netip.Addr) error {
	var conn *net.IPConn
	err := netns.Do(from, func() (err error) {
		conn, err = net.DialIP("ip4:icmp", nil, &net.IPAddr{IP: addr.AsSlice()})
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	answer := make([]byte, 256)
	for begin := time.Now(); time.Since(begin) < 5*time.Second && ctx.Err() == nil; {
		if _, err := conn.Write(echo()); err != nil && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return err
		}
		if n, _, err := conn.ReadFromIP(answer); err == nil && n >= 8 && answer[0] == 0 { // echo reply
			return nil
		}
	}
	return fmt.Errorf("%s does not answer", addr)
}

// echo is an ICMP echo request (RFC 792).
func echo() []byte {
	message := []byte{8, 0, 0, 0, 0x0c, 0x1c, 0, 1}
	sum := uint32(0)
	for i := 0; i < len(message); i += 2 {
		sum += uint32(message[i])<<8 | uint32(message[i+1])
	}
	sum = sum>>16 + sum&0xffff
	message[2], message[3] = byte(^sum>>8), byte(^sum)
	return message
}
