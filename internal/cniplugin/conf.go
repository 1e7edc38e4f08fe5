// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

const (
	maxStdin      = 1 << 20 // bytes
	defaultSocket = "/run/ocicat/cni.sock"

	// An agent that does not answer for this long counts as hung.
	defaultTimeout = 5 * time.Second
	minTimeout     = 100 * time.Millisecond
	maxTimeout     = 4 * time.Minute // runtimes give up about then
)

// versions of the specification that results are given in; the last is the
// one errors are when nothing better is known.
var versions = []string{"0.3.1", "0.4.0", "1.0.0", latest}

const latest = "1.1.0"

// since is the first version that has a command; the others have always been.
var since = map[string]string{"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}

// checkVerb refuses a command that the configuration's version does not have.
func (c conf) checkVerb(verb string) error {
	first, ok := since[verb]
	if !ok || slices.Index(versions, c.CNIVersion) >= slices.Index(versions, first) {
		return nil
	}
	return cniwire.WithCode(cniwire.CodeVersion, fault.Hint(
		fault.New(fault.Invalid, "cniVersion %q has no %s", c.CNIVersion, verb), "%s came with %s.", verb, first))
}

// conf is what every command needs of the network configuration. DEL must
// succeed whatever else is wrong, so the rest is read by ADD alone.
type conf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Socket     string `json:"socket"`  // path of the agent's socket
	Timeout    string `json:"timeout"` // as "5s"

	timeout time.Duration
}

func parseConf(stdin []byte) (conf, error) {
	var c conf
	if len(stdin) == 0 {
		return c, fault.Hint(decodeError("stdin is empty: want the network configuration as JSON"),
			"ocicat-cni is a CNI plugin: a container runtime calls it. By hand, use cnitool.")
	}
	if err := unmarshal(stdin, &c); err != nil {
		return c, err
	}
	if !slices.Contains(versions, c.CNIVersion) {
		return c, fault.Hint(cniwire.WithCode(cniwire.CodeVersion,
			fault.New(fault.Invalid, "configuration: cniVersion %q is not supported, want one of %s", cniwire.Short(c.CNIVersion), strings.Join(versions, ", "))),
			`Write "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"] in the conflist.`)
	}
	if err := cniwire.CheckNetwork(c.Name); err != nil {
		return c, invalid("name %w", err)
	}
	return c, c.parseAgent()
}

// parseAgent reads how to reach the agent.
func (c *conf) parseAgent() error {
	if c.Socket == "" {
		c.Socket = defaultSocket
	}
	if !filepath.IsAbs(c.Socket) || len(c.Socket) > cniwire.MaxSocketPath {
		return invalid("socket %q: want an absolute path of at most %d bytes", cniwire.Short(c.Socket), cniwire.MaxSocketPath)
	}
	c.timeout = defaultTimeout
	if c.Timeout == "" {
		return nil
	}
	d, err := time.ParseDuration(c.Timeout)
	if err != nil || d < minTimeout || d > maxTimeout {
		return invalid(`timeout %q: want a duration from %s to %s, as "5s"`, cniwire.Short(c.Timeout), minTimeout, maxTimeout)
	}
	c.timeout = d
	return nil
}

func (c conf) client() cniwire.Client {
	return cniwire.Client{Path: c.Socket, Timeout: c.timeout}
}

// addConf is what an ADD needs besides. Calico's keys keep their meaning;
// those about its datastore, logs and policy (kubernetes, datastore_type,
// etcd_…, log_…, policy, feature_control, windows_…) are the agent's matter
// and not read here. Unknown keys are allowed by the specification.
type addConf struct {
	RuntimeConfig struct {
		MAC         string            `json:"mac"`
		IPs         []string          `json:"ips"`
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
	MTU      int    `json:"mtu"`
	NodeName string `json:"nodename"`
	IPAM     struct {
		Type       string          `json:"type"`
		AssignIPv4 string          `json:"assign_ipv4"`
		AssignIPv6 string          `json:"assign_ipv6"`
		Pools      []string        `json:"ipv4_pools"`
		Subnet     string          `json:"subnet"`
		Ranges     json.RawMessage `json:"ranges"`
	} `json:"ipam"`
	ContainerSettings struct {
		AllowIPForwarding bool `json:"allow_ip_forwarding"`
	} `json:"container_settings"`
}

func parseAddConf(stdin []byte) (addConf, error) {
	var c addConf
	if err := unmarshal(stdin, &c); err != nil {
		return c, err
	}
	if err := c.check(); err != nil {
		return c, err
	}
	return c, c.checkIPAM()
}

func (c addConf) check() error {
	if c.ContainerSettings.AllowIPForwarding {
		return unsupported("container_settings.allow_ip_forwarding", true, "not done by this version")
	}
	if err := cniwire.CheckMTU(c.MTU); err != nil {
		return invalid("mtu %w", err)
	}
	return nil
}

func (c addConf) checkIPAM() error {
	switch c.IPAM.Type {
	case "", "ocicat", "calico-ipam":
	default:
		return fault.Hint(unsupported("ipam.type", quote(c.IPAM.Type), `want "ocicat" or "calico-ipam"`),
			"Ocicat assigns addresses itself, from its IP pools. Remove the ipam section.")
	}
	switch {
	case c.IPAM.AssignIPv4 != "" && c.IPAM.AssignIPv4 != "true":
		return unsupported("ipam.assign_ipv4", quote(c.IPAM.AssignIPv4), `want "true": this version attaches with IPv4`)
	case c.IPAM.AssignIPv6 != "" && c.IPAM.AssignIPv6 != "false":
		return unsupported("ipam.assign_ipv6", quote(c.IPAM.AssignIPv6), `want "false": this version attaches with IPv4 only`)
	case c.IPAM.Subnet != "":
		return fault.Hint(unsupported("ipam.subnet", quote(c.IPAM.Subnet), "addresses come from IP pools"), `Name pools in "ipv4_pools" instead.`)
	case len(c.IPAM.Ranges) > 0:
		return fault.Hint(unsupported("ipam.ranges", quote(string(c.IPAM.Ranges)), "addresses come from IP pools"), `Name pools in "ipv4_pools" instead.`)
	}
	return nil
}

// unmarshal decodes a configuration; its errors say where.
func unmarshal(stdin []byte, v any) error {
	err := json.Unmarshal(stdin, v)
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		field := wrong.Field
		if field == "" {
			field = "the configuration itself"
		}
		return decodeError("configuration: %s is a JSON %s, want %s", field, wrong.Value, kindName(wrong))
	case errors.As(err, &syntax):
		return decodeError("configuration: byte %d: %w", syntax.Offset, err)
	}
	return decodeError("configuration: %w", err)
}

func invalid(format string, args ...any) error {
	return cniwire.WithCode(cniwire.CodeConfig, fault.New(fault.Invalid, "configuration: "+format, args...))
}
