// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// errDetached says that the pod's interface belongs to a detached pair that
// was not destroyed yet.
var errDetached = errors.New("detached")

// verifyPair finds the endpoint's pair where createPair found a name taken.
// The pair is this endpoint's if both ends have the right names in the right
// namespaces and the alias does not say otherwise; a pair that another Attach
// left without alias is.
func (h *Handle) verifyPair(ctx context.Context, pod *Handle, a Attachment) (ends, error) {
	name, ifName := a.Want.Link.Name, a.Endpoint.ID.IfName
	inPod, err := pod.link(ctx, ifName)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return ends{}, err
	}
	podHas := err == nil
	hostEnd, err := h.link(ctx, name)
	switch {
	case fault.Is(err, fault.NotFound) && podHas:
		return ends{}, h.takenInPod(ctx, a, inPod)
	case err != nil:
		return ends{}, err
	}
	if hostEnd.Alias != "" && hostEnd.Alias != a.Want.Link.Alias {
		return ends{}, taken(name, fmt.Sprintf("of endpoint %q", hostEnd.Alias))
	}
	ours := hostEnd.Kind == a.Want.Link.Kind && podHas && hostEnd.Peer == inPod.Index && inPod.Peer == hostEnd.Index
	if !ours {
		return ends{}, taken(name, "not of this endpoint")
	}
	nsid, err := h.namespaceID(ctx, int(a.PodNetNS.Fd()))
	if err != nil {
		return ends{}, err
	}
	if nsid != hostEnd.peerNSID {
		return ends{}, taken(name, "to another namespace")
	}
	return ends{host: hostEnd.Link, pod: inPod.Index}, nil
}

// takenInPod is the error for an interface in the pod that is not the
// endpoint's, errDetached if it is about to go.
func (h *Handle) takenInPod(ctx context.Context, a Attachment, inPod link) error {
	all, _, err := h.links(ctx)
	if err != nil {
		return err
	}
	nsid, err := h.namespaceID(ctx, int(a.PodNetNS.Fd()))
	if err != nil {
		return err
	}
	if l, ok := all[inPod.Peer]; ok && l.group == goneGroup && l.Peer == inPod.Index && l.peerNSID == nsid {
		return errDetached
	}
	err = fault.New(fault.Conflict, "create %s in the pod's namespace: an interface of that name exists: %w", inPod.Name, unix.EEXIST)
	return fault.Hint(err, "Give the runtime's configuration another interface name, or a new sandbox to the pod.")
}

func taken(name, whose string) error {
	err := fault.New(fault.Conflict, "create link %s: a link of that name exists, %s: %w", name, whose, unix.EEXIST)
	return fault.Hint(err, "If nothing uses it, delete it: ip link delete %s", name)
}

// namespaceID is the id under which the Handle's namespace knows the network
// namespace fd, -1 if it does not.
func (h *Handle) namespaceID(ctx context.Context, fd int) (int32, error) {
	id := int32(-1)
	var b batch
	b.add(unix.RTM_GETNSID, 0, "find the pod's namespace id", make([]byte, align(unix.SizeofRtGenmsg)))
	b.u32(unix.NETNSA_FD, uint32(fd))
	err := h.withSocket(func(s *socket) error {
		errs, err := s.send(ctx, &b, func(r reply) {
			if len(r.payload) > unix.SizeofRtGenmsg {
				id = int32(number(find(r.payload[align(unix.SizeofRtGenmsg):], unix.NETNSA_NSID)))
			}
		})
		if err == nil {
			err = errs[0]
		}
		return err
	})
	return id, err
}
