// SPDX-License-Identifier: Apache-2.0

// Command netlinkfloor is a CNI plugin that is nothing but the kernel's work of
// an ADD or DEL: the endpoint Ocicat makes, by the same messages, with an
// address derived from the container's id. It asks nobody, remembers nothing
// and gives no promise: the floor that bench compares with. Nobody works
// behind its answers, so its DEL waits until the link is destroyed.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/kernel"
	"github.com/ocicat-net/ocicat/internal/names"
)

func main() {
	if err := run(context.Background(), os.Getenv("CNI_COMMAND")); err != nil {
		fmt.Fprintln(os.Stderr, "netlinkfloor: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, command string) error {
	h, err := kernel.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	ep := endpoint(os.Getenv("CNI_CONTAINERID"), os.Getenv("CNI_IFNAME"))
	want := core.WantEndpoint(cluster.Settings{}, ep)
	switch command {
	case "ADD":
		return add(ctx, h, ep, want)
	case "DEL":
		return errors.Join(h.Detach(ctx, want), h.DestroyDetached(ctx))
	}
	return fmt.Errorf("CNI_COMMAND %q: want ADD or DEL", command)
}

func add(ctx context.Context, h *kernel.Handle, ep cluster.Endpoint, want core.EndpointState) error {
	ns, err := os.Open(os.Getenv("CNI_NETNS"))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := h.Attach(ctx, kernel.Attachment{Endpoint: ep, Want: want, PodNetNS: ns, PermGateway: true}); err != nil {
		return err
	}
	_, err = fmt.Printf(`{"cniVersion":"1.0.0","interfaces":[{"name":%q},{"name":%q,"mac":%q,"sandbox":%q}],"ips":[{"address":"%s/32","interface":1}]}`+"\n",
		ep.HostIf, ep.ID.IfName, ep.MAC, ns.Name(), ep.Addr)
	return err
}

// endpoint is a container's, everything of it made from its id.
func endpoint(id, ifName string) cluster.Endpoint {
	sum := sha256.Sum256([]byte(id))
	ep := cluster.Endpoint{
		ID:     cluster.EndpointID{ContainerID: id, IfName: ifName},
		HostIf: names.HostInterface("cali", "bench", id),
		Addr:   netip.AddrFrom4([4]byte{10, sum[0], sum[1], sum[2]}),
		MTU:    1500,
	}
	copy(ep.MAC[:], sum[3:])
	ep.MAC[0] = ep.MAC[0]&^0x01 | 0x02
	return ep
}
