// SPDX-License-Identifier: Apache-2.0

// Package cniplugin is what the program ocicat-cni does: it checks what a
// container runtime hands over, asks the agent on this node and prints the
// answer in the runtime's terms. It holds no credentials, decides nothing
// about the network and, apart from tombstones, changes nothing itself.
//
// It implements the CNI specification 1.1: ADD, DEL, CHECK, GC, STATUS and
// VERSION, with results for 0.3.1, 0.4.0, 1.0.0 and 1.1.0.
package cniplugin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/journal/tombstone"
)

// Runtime is what a container runtime hands to an execution of the plugin.
type Runtime struct {
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
}

// Run serves one execution and returns the exit code: 0, or 1 after an error
// was printed, as JSON like everything else.
func Run(r Runtime) int {
	out, version, err := r.run()
	if err != nil {
		out = errorJSON(version, err)
	}
	if _, werr := r.Stdout.Write(append(out, '\n')); werr != nil || err != nil {
		return 1
	}
	return 0
}

// run returns what to print, and the version to print an error in.
func (r Runtime) run() (out []byte, version string, err error) {
	verb := r.Getenv("CNI_COMMAND")
	if err := knownVerb(verb); err != nil {
		return nil, latest, err
	}
	stdin, err := readAll(r.Stdin)
	if verb == "VERSION" {
		return versionJSON(stdin), latest, nil
	}
	if err != nil {
		return nil, latest, err
	}
	conf, err := parseConf(stdin)
	if err != nil {
		return nil, latest, err
	}
	if err := conf.checkVerb(verb); err != nil {
		return nil, conf.CNIVersion, err
	}
	switch verb {
	case "ADD":
		out, err = r.add(conf, stdin)
	case "DEL":
		err = r.del(conf)
	case "CHECK":
		err = r.check(conf, stdin)
	case "GC":
		err = gc(conf, stdin)
	case "STATUS":
		err = status(conf)
	}
	return out, conf.CNIVersion, err
}

func knownVerb(verb string) error {
	switch verb {
	case "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION":
		return nil
	case "":
		return fault.Hint(environment("CNI_COMMAND is not set"),
			"ocicat-cni is a CNI plugin: a container runtime calls it. By hand, use cnitool.")
	}
	return environment("CNI_COMMAND %q is none of ADD, DEL, CHECK, GC, STATUS, VERSION", cniwire.Short(verb))
}

func (r Runtime) add(conf conf, stdin []byte) ([]byte, error) {
	req, err := r.request(conf, stdin)
	if err != nil {
		return nil, err
	}
	before, err := parseChained(stdin, req.IfName)
	if err != nil {
		return nil, err
	}
	req.NetNS, err = openNetNS(req.NetNSPath)
	if err != nil {
		return nil, err
	}
	defer req.NetNS.Close()
	result, err := conf.client().Add(req)
	if err != nil {
		return nil, err
	}
	return resultJSON(conf.CNIVersion, req, result, before)
}

// del succeeds whenever the attachment is gone or is sure to go: an agent
// that does not answer finds a tombstone.
func (r Runtime) del(conf conf) error {
	id, err := r.id("CNI_CONTAINERID", "CNI_IFNAME")
	if err != nil {
		return err
	}
	netns := r.Getenv("CNI_NETNS")
	if len(netns) > unix.PathMax {
		netns = "" // only for the record, and a DEL must not fail for it
	}
	err = conf.client().Del(cniwire.DelRequest{ID: id, Network: conf.Name, NetNSPath: netns})
	if !fault.Is(err, fault.Unavailable) {
		return err
	}
	if terr := tombstone.Write(tombstone.Dir(filepath.Dir(conf.Socket)), id); terr != nil {
		return fault.Hint(fault.New(fault.Unavailable, "%w, and %v", err, terr),
			"The runtime tries again by itself. Start ocicatd on this node, or free space in %s.", filepath.Dir(conf.Socket))
	}
	return nil
}

// check asks the agent to compare what it made with what stands.
func (r Runtime) check(conf conf, stdin []byte) error {
	id, err := r.id("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")
	if err != nil {
		return err
	}
	req := cniwire.CheckRequest{ID: id, Network: conf.Name, NetNSPath: r.Getenv("CNI_NETNS")}
	if req.Prev, err = parsePrev(stdin); err != nil {
		return err
	}
	if err := (cniwire.Request{V: cniwire.Version, Check: &req}).Validate(); err != nil {
		return err
	}
	if req.NetNS, err = openNetNS(req.NetNSPath); err != nil {
		return err
	}
	defer req.NetNS.Close()
	return conf.client().Check(req)
}

// gc passes on which attachments are to stay.
func gc(conf conf, stdin []byte) error {
	valid, err := parseValid(stdin)
	if err != nil {
		return err
	}
	req := cniwire.GCRequest{Network: conf.Name, Valid: valid}
	if err := (cniwire.Request{V: cniwire.Version, GC: &req}).Validate(); err != nil {
		return fault.New(fault.KindOf(err), "configuration: %s: %w", validKey, err)
	}
	return conf.client().GC(req)
}

// status says whether the node has its network. A runtime takes a node out for
// an error, and with it the pods that are there: that the agent is away, as in
// an update, is none, once it was there.
func status(conf conf) error {
	err := conf.client().Status(cniwire.StatusRequest{Network: conf.Name})
	if fault.Is(err, fault.Unavailable) && cniwire.CodeOf(err) != cniwire.CodeLimited {
		if _, statErr := os.Stat(filepath.Join(filepath.Dir(conf.Socket), cniwire.ServedFile)); statErr == nil {
			return nil
		}
	}
	if err != nil && cniwire.CodeOf(err) != cniwire.CodeLimited {
		err = cniwire.WithCode(cniwire.CodeUnavailable, err)
	}
	return err
}

// openNetNS opens the pod's namespace. What the runtime named must be one,
// and not the host's: the agent would plumb the host itself.
func openNetNS(path string) (*os.File, error) {
	// A FIFO of that name must not make us wait.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fault.Hint(environment("CNI_NETNS %q cannot be opened: %w", path, err),
			"The runtime makes the pod's network namespace before ADD; did the pod end meanwhile?")
	}
	if err := cniwire.CheckNetNS(fd); err != nil {
		return nil, fault.Hint(errors.Join(environment("CNI_NETNS %q %w", path, err), unix.Close(fd)),
			"Give the path of the pod's own network namespace, as /run/netns/NAME.")
	}
	return os.NewFile(uintptr(fd), path), nil
}

// id reads the attachment from the environment; all variables named must be
// set.
func (r Runtime) id(required ...string) (cniwire.ID, error) {
	var missing []string
	for _, name := range required {
		if r.Getenv(name) == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return cniwire.ID{}, fault.Hint(environment("%s not set", strings.Join(missing, ", ")),
			"The CNI specification requires %s of a runtime.", strings.Join(required, ", "))
	}
	id := cniwire.ID{ContainerID: r.Getenv("CNI_CONTAINERID"), IfName: r.Getenv("CNI_IFNAME")}
	if err := cniwire.CheckContainerID(id.ContainerID); err != nil {
		return id, environment("CNI_CONTAINERID %w", err)
	}
	if err := cniwire.CheckIfName(id.IfName); err != nil {
		return id, environment("CNI_IFNAME %w", err)
	}
	return id, nil
}

// readAll reads the network configuration; more than maxStdin bytes are none.
func readAll(stdin io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(stdin, maxStdin+1))
	if err != nil {
		return nil, cniwire.WithCode(cniwire.CodeIO, fault.New(fault.Internal, "read the network configuration from stdin: %w", err))
	}
	if len(content) > maxStdin {
		return nil, decodeError("stdin holds more than %d bytes: not a network configuration", maxStdin)
	}
	return content, nil
}

// environment is an error about a CNI_… variable.
func environment(format string, args ...any) error {
	return cniwire.WithCode(cniwire.CodeEnvironment, fault.New(fault.Invalid, format, args...))
}

func decodeError(format string, args ...any) error {
	return cniwire.WithCode(cniwire.CodeDecode, fault.New(fault.Invalid, format, args...))
}

// unsupported is an error about a field of the configuration; its text holds
// key and value.
func unsupported(key string, value any, format string, args ...any) error {
	return cniwire.WithCode(cniwire.CodeField,
		fault.New(fault.Unsupported, "configuration: %s %v: %s", key, value, fmt.Sprintf(format, args...)))
}
