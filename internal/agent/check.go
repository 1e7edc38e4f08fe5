// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cluster"
	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/core"
	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/journal"
	"github.com/ocicat-net/ocicat/internal/kernel"
)

// Check compares an attachment's record with what the kernel holds on both
// sides and with what the runtime was told. It changes nothing; the error, a
// Conflict, names every difference.
func (a *Agent) Check(ctx context.Context, req cniwire.CheckRequest) error {
	if err := a.serving(); err != nil {
		return err
	}
	id := cluster.EndpointID(req.ID)
	att, ok := a.journal.Get(id)
	if !ok || att.State != journal.Attached || att.Network != req.Network && !adopted(att) {
		return fault.Hint(fault.New(fault.NotFound, "check %s: it is not attached to network %s", id, req.Network),
			"Detach the container and attach it again.")
	}
	found, err := a.kernel.Verify(ctx, kernel.Attachment{
		Endpoint:    att.Endpoint,
		Want:        core.WantEndpoint(a.feed.Snapshot().Settings, att.Endpoint),
		PodNetNS:    req.NetNS,
		PermGateway: att.PermGateway,
	})
	if err != nil {
		return fault.New(fault.KindOf(err), "check %s: %w", podName(att.Endpoint), err)
	}
	texts := compareResult(req.Prev, id.IfName, resultOf(att.Endpoint))
	for _, d := range found {
		texts = append(texts, d.String())
	}
	if len(texts) == 0 {
		return nil
	}
	return fault.Hint(fault.New(fault.Conflict, "check %s: %s", podName(att.Endpoint), strings.Join(texts, "; ")),
		"The agent repairs the host's side by itself; to have the pod's side made anew, delete the pod.")
}

// compareResult compares what the runtime was told with what Add made. What
// plugins after ours added to the result is no difference.
func compareResult(prev cniwire.Prev, ifName string, made cniwire.AddResult) []string {
	texts := compareInterface(prev, cniwire.PrevInterface{Name: made.HostIf, MAC: made.HostMAC, MTU: made.MTU})
	texts = append(texts, compareInterface(prev, cniwire.PrevInterface{Name: ifName, MAC: made.MAC, MTU: made.MTU, InPod: true})...)
	for _, a := range made.Addresses {
		if !slices.Contains(prev.Addresses, a) {
			texts = append(texts, fmt.Sprintf("prevResult lacks address %s", a))
		}
	}
	return texts
}

func compareInterface(prev cniwire.Prev, made cniwire.PrevInterface) []string {
	i := slices.IndexFunc(prev.Interfaces, func(p cniwire.PrevInterface) bool { return p.Name == made.Name && p.InPod == made.InPod })
	if i < 0 {
		return []string{"prevResult lacks interface " + made.Name}
	}
	var texts []string
	told := prev.Interfaces[i]
	if told.MAC != "" && !strings.EqualFold(told.MAC, made.MAC) {
		texts = append(texts, fmt.Sprintf("prevResult's mac of %s is %q, want %q", made.Name, told.MAC, made.MAC))
	}
	if told.MTU != 0 && told.MTU != made.MTU {
		texts = append(texts, fmt.Sprintf("prevResult's mtu of %s is %d, want %d", made.Name, told.MTU, made.MTU))
	}
	return texts
}
