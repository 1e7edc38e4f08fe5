// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cniwire"
)

// contender is one way to attach containers, called as a runtime calls it.
type contender interface {
	name() string
	about() string // one line for the report
	start(ctx context.Context) error
	stop()
	program() string // the plugin executed
	conf() string    // its network configuration
	daemon() int     // process whose CPU time counts as well; 0 for none
}

// ptp is Debian's ptp plugin with host-local.
type ptp struct{ dir string }

func newPTP(dir string) *ptp { return &ptp{dir} }

func (p *ptp) name() string                { return "ptp" }
func (p *ptp) about() string               { return "ptp + host-local of Debian's containernetworking-plugins" }
func (p *ptp) start(context.Context) error { return os.MkdirAll(p.dir+"/host-local", 0o700) }
func (p *ptp) stop()                       {}
func (p *ptp) program() string             { return "/usr/lib/cni/ptp" }
func (p *ptp) daemon() int                 { return 0 }
func (p *ptp) conf() string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"bench","type":"ptp","mtu":1500,`+
		`"ipam":{"type":"host-local","subnet":"10.88.0.0/16","dataDir":%q,"routes":[{"dst":"0.0.0.0/0"}]}}`, p.dir+"/host-local")
}

// netlink is bench/netlinkfloor: the same kernel work in as few messages as
// possible, by a program that asks nobody and remembers nothing.
type netlink struct{ bin string }

func newNetlink(bin string) *netlink { return &netlink{bin} }

func (n *netlink) name() string                { return "netlink" }
func (n *netlink) about() string               { return "bench/netlinkfloor: the kernel's work alone" }
func (n *netlink) start(context.Context) error { return nil }
func (n *netlink) stop()                       {}
func (n *netlink) program() string             { return filepath.Join(n.bin, "netlinkfloor") }
func (n *netlink) daemon() int                 { return 0 }
func (n *netlink) conf() string                { return `{"cniVersion":"1.0.0","name":"bench","type":"netlinkfloor"}` }

// ocicat is the plugin with a real agent and a real etcd behind it.
type ocicat struct {
	bin, dir string
	pool     string
	etcd     *exec.Cmd
	agent    *exec.Cmd
}

const (
	etcdURL   = "http://127.0.0.1:2379"
	agentSock = "/run/ocicat/cni.sock"
)

func newOcicat(bin, dir string) *ocicat { return &ocicat{bin: bin, dir: dir, pool: "172.16.0.0/16"} }

func (o *ocicat) name() string { return "ocicat" }
func (o *ocicat) about() string {
	return "ocicat-cni, ocicatd with its reserve, etcd with fsync on the same machine"
}
func (o *ocicat) program() string { return filepath.Join(o.bin, "ocicat-cni") }
func (o *ocicat) daemon() int     { return o.agent.Process.Pid }
func (o *ocicat) conf() string    { return `{"cniVersion":"1.0.0","name":"bench","type":"ocicat-cni"}` }

func (o *ocicat) start(ctx context.Context) error {
	var err error
	ready := filepath.Join(o.dir, "etcd.ready")
	o.etcd, err = o.launch("ocicat-etcd", nil, "--data-dir", filepath.Join(o.dir, "etcd"), "--listen", etcdURL, "--ready-file", ready)
	if err != nil {
		return err
	}
	err = o.await(ctx, o.etcd, func() error {
		_, err := os.Stat(ready)
		return err
	})
	if err != nil {
		return err
	}
	if err := o.startAgent(); err != nil {
		return err
	}
	client := cniwire.Client{Path: agentSock, Timeout: time.Second}
	return o.await(ctx, o.agent, func() error { return client.Status(cniwire.StatusRequest{Network: "bench"}) })
}

// startAgent starts the agent and does not wait for it.
func (o *ocicat) startAgent() (err error) {
	o.agent, err = o.launch("ocicatd", []string{
		"NODENAME=bench",
		"IP=192.168.0.11/24",
		"DATASTORE_TYPE=etcdv3",
		"ETCD_ENDPOINTS=" + etcdURL,
		"CALICO_IPV4POOL_CIDR=" + o.pool,
		"CALICO_IPV4POOL_IPIP=Never",
		"CALICO_IPV4POOL_VXLAN=Never",
		"CALICO_IPV4POOL_NAT_OUTGOING=false",
	})
	return err
}

// launch starts a program, its output in a log. It ends with this one, which
// is the first process of its PID namespace.
func (o *ocicat) launch(program string, env []string, args ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(o.dir, program+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(o.bin, program), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, cmd.Start()
}

// await waits until a daemon is ready; its death ends the waiting.
func (o *ocicat) await(ctx context.Context, daemon *exec.Cmd, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return poll(ctx, func() error {
		err := ready()
		if err != nil && !alive(daemon) {
			return errors.Join(errGivenUp, fmt.Errorf("%s ended: %w", filepath.Base(daemon.Path), err))
		}
		return err
	})
}

func (o *ocicat) stop() {
	for _, cmd := range []*exec.Cmd{o.agent, o.etcd} {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
}

// alive reports whether a process runs; one that ended is not waited for.
func alive(cmd *exec.Cmd) bool {
	var status unix.Siginfo
	err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &status, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && status.Signo == 0
}

// errGivenUp ends a poll.
var errGivenUp = errors.New("given up")

// poll calls check until it returns nil, something that is errGivenUp, or ctx
// ends.
func poll(ctx context.Context, check func() error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil || errors.Is(err, errGivenUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}
