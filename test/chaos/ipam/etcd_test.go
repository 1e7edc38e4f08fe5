// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ocicat-net/ocicat/internal/store"
	"github.com/ocicat-net/ocicat/internal/store/etcd"
)

// etcdCluster is real etcd members on loopback with their data in memory.
type etcdCluster struct {
	t       testing.TB
	members []*member
}

// member is one etcd server. Its lock is held while it is being killed or
// started.
type member struct {
	args   []string
	client string // URL
	log    *os.File
	mu     sync.Mutex
	cmd    *exec.Cmd
}

// startEtcd starts n members and waits until they serve.
func startEtcd(t testing.TB, n int) *etcdCluster {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ocicat-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	c := &etcdCluster{t: t}
	t.Cleanup(func() {
		for _, m := range c.members {
			m.kill()
		}
		_ = os.RemoveAll(dir)
	})
	var initial []string
	for i := range n {
		peer := "http://" + freePort(t)
		m := &member{client: "http://" + freePort(t)}
		name := fmt.Sprint("m", i)
		initial = append(initial, name+"="+peer)
		if m.log, err = os.Create(filepath.Join(dir, name+".log")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.log.Close() })
		m.args = []string{
			"--name", name, "--data-dir", filepath.Join(dir, name),
			"--listen-client-urls", m.client, "--advertise-client-urls", m.client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--heartbeat-interval", "30", "--election-timeout", "300", "--snapshot-count", "5000", "--logger", "zap", "--log-outputs", "stderr",
		}
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		m.args = append(m.args, "--initial-cluster", strings.Join(initial, ","))
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
	}
	c.ready()
	return c
}

// ready waits until a write through every member is answered.
func (c *etcdCluster) ready() {
	c.t.Helper()
	for _, m := range c.members {
		s := c.connect(m.client)
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
		for {
			_, err := s.Put(ctx, store.Key{Kind: store.Election, Name: "ready"}, []byte("{}"), store.AnyRevision)
			if err == nil {
				break
			}
			if pause(ctx, 20*time.Millisecond) != nil {
				log, _ := os.ReadFile(m.log.Name())
				c.t.Fatalf("etcd does not serve: %v\n%s", err, log)
			}
		}
		if err := s.Delete(ctx, store.Key{Kind: store.Election, Name: "ready"}, store.AnyRevision); err != nil {
			c.t.Logf("delete the probe: %v", err)
		}
		cancel()
		_ = s.Close()
	}
}

func (m *member) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cmd = exec.Command("etcd", m.args...)
	m.cmd.Stderr, m.cmd.Stdout = m.log, m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return m.cmd.Start()
}

// kill ends the member at once and waits for its end.
func (m *member) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd != nil && m.cmd.Process != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
	m.cmd = nil
}

func (m *member) signal(s syscall.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cmd.Process.Signal(s)
}

// urls are where clients reach the members.
func (c *etcdCluster) urls() []string {
	var all []string
	for _, m := range c.members {
		all = append(all, m.client)
	}
	return all
}

// connect makes a client of its own.
func (c *etcdCluster) connect(urls ...string) store.Store {
	c.t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: urls, Timeout: 2 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = s.Close() })
	return s
}

// freePort is an address on loopback nobody listens on now.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// pause waits, for what is retried.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
