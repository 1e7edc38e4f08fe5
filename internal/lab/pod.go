// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sync/errgroup"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/host"
)

// podIf is the interface of every pod.
const podIf = "eth0"

// conflistPath is where a node's container runtime finds the network.
const conflistPath = "/etc/cni/net.d/10-ocicat.conflist"

// conflist is the network as every node has it: deploy/10-ocicat.conflist. Its
// name is the one Calico's manifests give it.
const conflist = `{
  "cniVersion": "1.0.0",
  "cniVersions": ["1.0.0", "1.1.0"],
  "name": "k8s-pod-network",
  "plugins": [
    {
      "type": "ocicat-cni",
      "capabilities": {
        "mac": true,
        "ips": true,
        "io.kubernetes.cri.pod-annotations": true
      }
    }
  ]
}
`

// writeConflist installs the network's configuration on a node.
func (l *Lab) writeConflist(node string) error {
	path := l.dir("nodes", node, "net.d", filepath.Base(conflistPath))
	if err := os.WriteFile(path, []byte(conflist), 0o644); err != nil {
		return fault.New(fault.Internal, "write network configuration of %s: %w", node, err)
	}
	return nil
}

// AddPod makes a pod on a running lab and attaches it, like a container
// runtime. A pod of that name that is attached is a Conflict; errors of the
// plugin come with their CNI code's kind.
func (l *Lab) AddPod(ctx context.Context, p PodSpec) (Pod, error) {
	var made Pod
	err := l.locked(ctx, "lab pod add", func() error {
		s, err := l.State()
		if err != nil {
			return err
		}
		if have, err := s.Pod(p.String()); err == nil && have.Attached {
			return fault.Hint(fault.New(fault.Conflict, "pod %s: exists on %s", p, have.Node), "Delete it first: sudo ocicat lab pod del %s", p)
		}
		if err := s.want(l, p); err != nil {
			return err
		}
		pod, err := s.Pod(p.String())
		if err != nil {
			return err
		}
		pod.PodSpec = p
		if err := l.save(s); err != nil {
			return err
		}
		if err := l.attach(ctx, pod); err != nil {
			return errors.Join(err, l.forget(ctx, s, pod))
		}
		made = *pod
		return l.save(s)
	})
	return made, err
}

// DeletePod detaches a pod, named as for State.Pod, and removes its
// namespace. The agent need not run.
func (l *Lab) DeletePod(ctx context.Context, name string) (Pod, error) {
	var gone Pod
	err := l.locked(ctx, "lab pod del", func() error {
		s, err := l.State()
		if err != nil {
			return err
		}
		pod, err := s.Pod(name)
		if err != nil {
			return err
		}
		gone = *pod
		return l.forget(ctx, s, pod)
	})
	return gone, err
}

// forget detaches a pod and removes it from machine and record.
func (l *Lab) forget(ctx context.Context, s *State, pod *Pod) error {
	if err := l.detach(ctx, *pod); err != nil {
		return err
	}
	if err := l.clearNamespace(ctx, pod.Netns); err != nil {
		return err
	}
	name := pod.String()
	s.Pods = slices.DeleteFunc(s.Pods, func(p Pod) bool { return p.String() == name })
	return l.save(s)
}

// raisePods attaches the record's pods that are not: nodes at the same time,
// the pods of one node in their order.
func (l *Lab) raisePods(ctx context.Context, s *State) ([]string, error) {
	var group errgroup.Group
	for _, n := range s.Nodes {
		group.Go(func() error {
			for i := range s.Pods {
				if s.Pods[i].Node != n.Name {
					continue
				}
				if err := l.raisePod(ctx, &s.Pods[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if len(s.Pods) == 0 {
		return []string{"none"}, nil
	}
	var detail []string
	width := 0
	for _, p := range s.Pods {
		width = max(width, len(p.String()))
	}
	for _, p := range s.Pods {
		detail = append(detail, fmt.Sprintf("%-*s  %-15s  %s", width, p, p.Address.Addr(), p.Node))
	}
	return detail, nil
}

func (l *Lab) raisePod(ctx context.Context, p *Pod) error {
	if isNamespace(netnsPath(p.Netns)) && p.Attached {
		return nil
	}
	if p.Attached { // its namespace is gone, and the container with it
		if err := l.detach(ctx, *p); err != nil {
			return err
		}
		p.Attached, p.ContainerID = false, newContainerID()
	}
	return l.attach(ctx, p)
}

// attach makes the pod's namespace, if it is missing, and calls the plugin's
// ADD; repeated after a crash it gets the first call's answer.
func (l *Lab) attach(ctx context.Context, p *Pod) error {
	if !isNamespace(netnsPath(p.Netns)) {
		if err := errors.Join(removeNetns(p.Netns), makeNetns(p.Netns)); err != nil {
			return err
		}
	}
	var result *current.Result
	err := l.withCNI(*p, func(cni *libcni.CNIConfig, net *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		answer, err := cni.AddNetworkList(ctx, net, rt)
		if err != nil {
			return err
		}
		result, err = current.NewResultFromResult(answer)
		return err
	})
	if err != nil {
		return fmt.Errorf("attach pod %s on %s: %w", p, p.Node, err)
	}
	if err := p.record(result); err != nil {
		return fault.New(fault.Internal, "attach pod %s: read result: %w", p, err)
	}
	return nil
}

// record takes what the pod got from the plugin's result.
func (p *Pod) record(r *current.Result) error {
	if len(r.IPs) != 1 {
		return fmt.Errorf("%d addresses, want 1", len(r.IPs))
	}
	addr, ok := netip.AddrFromSlice(r.IPs[0].Address.IP)
	if !ok {
		return fmt.Errorf("address %v is none", r.IPs[0].Address)
	}
	bits, _ := r.IPs[0].Address.Mask.Size()
	p.Address = netip.PrefixFrom(addr.Unmap(), bits)
	for _, i := range r.Interfaces {
		if i.Sandbox == "" {
			p.HostIf = i.Name
			continue
		}
		mac, err := host.ParseMAC(i.Mac)
		if err != nil {
			return err
		}
		p.EthMAC = mac
	}
	p.Attached = true
	return nil
}

// detach calls the plugin's DEL; a pod that was never attached is no error.
func (l *Lab) detach(ctx context.Context, p Pod) error {
	err := l.withCNI(p, func(cni *libcni.CNIConfig, net *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return cni.DelNetworkList(ctx, net, rt)
	})
	if err != nil {
		return fmt.Errorf("detach pod %s from %s: %w", p, p.Node, err)
	}
	return nil
}

// withCNI calls f inside the pod's node with what a container runtime has
// there.
func (l *Lab) withCNI(p Pod, f func(*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) error {
	plugin, err := l.program("ocicat-cni")
	if err != nil {
		return err
	}
	rt := &libcni.RuntimeConf{
		ContainerID: p.ContainerID,
		NetNS:       netnsPath(p.Netns),
		IfName:      podIf,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.Namespace},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
		},
		CapabilityArgs: map[string]any{},
	}
	if p.MAC != (host.MAC{}) {
		rt.CapabilityArgs["mac"] = p.MAC.String()
	}
	if p.IP.IsValid() {
		rt.CapabilityArgs["ips"] = []string{p.IP.String()}
	}
	err = l.space(p.Node).run(func() error {
		net, err := libcni.ConfListFromFile(conflistPath)
		if err != nil {
			return err
		}
		return f(libcni.NewCNIConfig([]string{filepath.Dir(plugin)}, nil), net, rt)
	})
	return pluginError(err)
}

// pluginError gives a plugin's error the kind that its CNI code stands for.
func pluginError(err error) error {
	var e *types.Error
	if !errors.As(err, &e) {
		return err
	}
	kind := fault.Internal
	for k := fault.Internal; k <= fault.Unavailable; k++ {
		if k.CNICode() == e.Code {
			kind = k
		}
	}
	return fault.Hint(fault.New(kind, "%s", e.Msg), "%s", e.Details)
}

// newContainerID is an id as container runtimes make them.
func newContainerID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
