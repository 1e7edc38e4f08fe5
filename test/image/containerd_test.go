// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ocicat-net/ocicat/internal/install"
	"github.com/ocicat-net/ocicat/internal/nstest"
)

// containerd is a daemon of a test, with directories of its own.
type containerd struct {
	t              *testing.T
	socket, log    string
	binDir, netDir string
}

// startContainerd starts Debian's containerd, which is 1.6: no STATUS, and the
// file's being there makes the node Ready.
func startContainerd(t *testing.T) *containerd {
	t.Helper()
	nstest.RequireRoot(t)
	dir := t.TempDir()
	c := &containerd{t: t, socket: filepath.Join(dir, "c.sock"), log: filepath.Join(dir, "log"), binDir: t.TempDir(), netDir: t.TempDir()}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(`version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
  address = "%[1]s/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[2]s"
    conf_dir = "%[3]s"
`, dir, c.binDir, c.netDir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command("containerd", "-c", config)
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(os.Interrupt) // its end is what counts
		_ = daemon.Wait()
	})
	nstest.Eventually(t, 30*time.Second, func() bool {
		conn, err := net.Dial("unix", c.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "containerd answers")
	return c
}

func (c *containerd) ctr(args ...string) string {
	c.t.Helper()
	out, err := exec.Command("ctr", append([]string{"-a", c.socket}, args...)...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("ctr %v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestContainerd imports the archive, and the layout packed as one, and runs
// a container of each.
func TestContainerd(t *testing.T) {
	c := startContainerd(t)
	layout := filepath.Join(t.TempDir(), "oci.tar")
	if out, err := exec.Command("tar", "-C", filepath.Join(built, "oci"), "-cf", layout, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	const name = "ghcr.io/ocicat-net/ocicat:test"
	for _, archive := range []string{filepath.Join(built, "ocicat-"+runtime.GOARCH+".tar"), layout} {
		c.ctr("image", "import", "--snapshotter", "native", archive)
		out := c.ctr("run", "--rm", "--snapshotter", "native", "--read-only", name, fmt.Sprintf("ocicat-test-%d", os.Getpid()), "/ocicat", "version")
		if !strings.HasPrefix(out, "ocicat ") {
			t.Errorf("%s: ocicat version prints %q", archive, out)
		}
		c.ctr("image", "rm", name)
	}
}

// plain passes messages as they are.
type plain struct{}

func (plain) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (plain) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (plain) Name() string                       { return "proto" }

// networkReady asks the CRI for its Status: conditions have a type, field 1,
// and a status, field 2 (cri-api, StatusResponse).
func (c *containerd) networkReady(conn *grpc.ClientConn) bool {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	var request, answer []byte
	if err := conn.Invoke(ctx, "/runtime.v1.RuntimeService/Status", &request, &answer, grpc.ForceCodec(plain{}), grpc.WaitForReady(true)); err != nil {
		c.t.Fatal(err)
	}
	for _, status := range fields(answer, 1) {
		for _, condition := range fields(status, 1) {
			if kinds := fields(condition, 1); len(kinds) == 1 && string(kinds[0]) == "NetworkReady" {
				return len(fields(condition, 2)) == 1
			}
		}
	}
	c.t.Fatal("the runtime says nothing of its network")
	return false
}

// fields are the values of one field of a protobuf message: the bytes of a
// string or message, or of a number that is not zero.
func fields(message []byte, number uint64) [][]byte {
	var found [][]byte
	for len(message) > 0 {
		key, n := binary.Uvarint(message)
		size, m := binary.Uvarint(message[n:])
		value := message[n+m:][:0]
		if key&7 == 2 {
			value = message[n+m:][:size]
		}
		message = message[n+m+len(value):]
		if key>>3 == number {
			found = append(found, value)
		}
	}
	return found
}

// TestContainerdSeesWholeFiles: the runtime is ready soon after the agent is,
// has loaded nothing that was not whole while versions replaced one another,
// and is no longer ready once the plugin is removed. The twin writes half a
// file in place, which the runtime must complain of.
func TestContainerdSeesWholeFiles(t *testing.T) {
	c := startContainerd(t)
	conn, err := grpc.NewClient("unix://"+c.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if c.networkReady(conn) {
		t.Error("ready without any configuration")
	}
	config := install.Config{
		Source: filepath.Join(unpack(t), "opt/ocicat/bin"), BinDir: c.binDir, NetDir: c.netDir,
		Conflist: install.Conflist{File: install.DefaultFile, Network: install.DefaultNetwork},
	}
	const versions = 100
	for n := range versions {
		config.Conflist.MTU = 1400 + n
		ctx, cancel := context.WithCancel(t.Context())
		installer, err := install.New(install.Options{Config: config, Ready: ready, Changed: func() {}, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- installer.Run(ctx) }()
		<-installer.Installed()
		if n == 0 {
			began := time.Now()
			nstest.Eventually(t, 10*time.Second, func() bool { return c.networkReady(conn) }, "the runtime is ready")
			t.Logf("ready %s after the configuration", time.Since(began).Round(time.Millisecond))
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if !c.networkReady(conn) {
			t.Errorf("version %d: not ready", n)
		}
	}
	if n := c.complaints(); n > 0 {
		t.Errorf("%d complaints in the log of containerd about %d versions", n, versions)
	}
	whole, err := os.ReadFile(filepath.Join(c.netDir, install.DefaultFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.netDir, install.DefaultFile), whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, func() bool { return c.complaints() > 0 }, "twin: the runtime complains of half a file")
	if err := os.WriteFile(filepath.Join(c.netDir, install.DefaultFile), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, func() bool { return c.networkReady(conn) }, "ready again")
	if err := install.Uninstall(config, quiet()); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, func() bool { return !c.networkReady(conn) }, "not ready without the plugin")
	if entries, err := os.ReadDir(c.binDir); err != nil || len(entries) > 0 {
		t.Errorf("left: %v %v", entries, err)
	}
}

// complaints are the configurations that containerd could not read.
func (c *containerd) complaints() int {
	raw, err := os.ReadFile(c.log)
	if err != nil {
		c.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, "failed to reload cni configuration") && !strings.Contains(line, "no network config found") {
			n++
		}
	}
	return n
}
