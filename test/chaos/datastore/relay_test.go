// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/ocicat-net/ocicat/internal/netns"
	"github.com/ocicat-net/ocicat/internal/nstest"
	"github.com/ocicat-net/ocicat/test/labtest"
)

// datastore is a lab's etcd, run by the test, and the relay at its address
// through which the agents reach it.
type datastore struct {
	t      *testing.T
	lab    *labtest.Lab
	socket string
	server *exec.Cmd

	slow atomic.Bool  // answers come 1 to 5 s late
	late atomic.Int64 // answers that did
	held atomic.Int64 // of them, those still on their way
}

// takeOver puts a relay and an etcd of the test's in the place of the lab's.
func takeOver(t *testing.T, l *labtest.Lab) *datastore {
	t.Helper()
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", state.Datastore.PID))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := syscall.Kill(state.Datastore.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 5*time.Second, func() bool { return !state.Datastore.Alive() }, "the lab's etcd gone")
	d := &datastore{t: t, lab: l, socket: filepath.Join(t.TempDir(), "etcd.sock")}
	d.start(64)
	var listener net.Listener
	err = netns.Do(ns, func() (err error) {
		listener, err = net.Listen("tcp", state.Topology.Gateway.Addr().String()+":2379")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = listener.Close()
		d.stop()
	})
	go d.accept(listener)
	return d
}

// start starts etcd with a quota in MiB and waits until it answers.
func (d *datastore) start(quota int) {
	d.t.Helper()
	_ = os.Remove(d.socket)
	d.server = exec.Command(filepath.Join(d.lab.Bin, "ocicat-etcd"), "--data-dir", filepath.Join(d.lab.Root, d.lab.Name(), "etcd"),
		"--unsafe-no-fsync", "--listen", "unix://"+d.socket, "--quota", fmt.Sprint(quota), "--log-level", "error")
	if err := d.server.Start(); err != nil {
		d.t.Fatal(err)
	}
	nstest.Eventually(d.t, 20*time.Second, func() bool {
		conn, err := net.Dial("unix", d.socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, "etcd answers")
}

// stop kills etcd.
func (d *datastore) stop() {
	_ = d.server.Process.Kill() // it may be dead already
	_ = d.server.Wait()
}

// signal sends etcd a signal.
func (d *datastore) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.server.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// client is etcd without the relay.
func (d *datastore) client() *clientv3.Client {
	d.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + d.socket}, Logger: zap.NewNop()})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = client.Close() })
	return client
}

func (d *datastore) accept(listener net.Listener) {
	for {
		front, err := listener.Accept()
		if err != nil {
			return
		}
		back, err := net.Dial("unix", d.socket)
		if err != nil {
			_ = front.Close()
			continue
		}
		go d.forward(back, front, false)
		go d.forward(front, back, true)
	}
}

// piece is a part of a stream and when it may arrive.
type piece struct {
	data []byte
	at   time.Time
	late bool
}

// forward copies a stream, in order and while slow late.
func (d *datastore) forward(to, from net.Conn, answers bool) {
	pieces := make(chan piece, 1<<16)
	go func() {
		defer to.Close()
		for p := range pieces {
			<-time.After(time.Until(p.at))
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close()
			}
			if p.late {
				d.held.Add(-1)
			}
		}
	}()
	defer close(pieces)
	for {
		data := make([]byte, 32<<10)
		n, err := from.Read(data)
		if err != nil {
			return
		}
		p := piece{data: data[:n], at: time.Now()}
		if answers && d.slow.Load() {
			p.at, p.late = p.at.Add(time.Second+rand.N(4*time.Second)), true
			d.late.Add(1)
			d.held.Add(1)
		}
		pieces <- p
	}
}
