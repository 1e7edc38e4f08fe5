// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ocicat-net/ocicat/internal/cniwire"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// Annotate brings what a pod's annotations ask for into a request, where the
// runtime did not hand them over; what the runtime asked for itself goes first.
// Errors are those of a bad annotation.
func Annotate(req *cniwire.AddRequest, notes map[string]string) error {
	if err := checkAnnotations(notes); err != nil {
		return err
	}
	ips, err := list(annotationIPs, notes[annotationIPs])
	if err != nil {
		return err
	}
	if len(ips) > 1 {
		return badAnnotation(fault.New(fault.Invalid, "annotation %s asks for %d addresses, a pod can have one", annotationIPs, len(ips)))
	}
	if len(ips) == 1 && len(req.IPs) == 0 {
		addr, err := parseIP(ips[0])
		if err != nil {
			return badAnnotation(fmt.Errorf("annotation %s: %w", annotationIPs, err))
		}
		req.IPs = []netip.Addr{addr}
	}
	if mac := notes[annotationMAC]; mac != "" && req.MAC == "" {
		if err := cniwire.CheckMAC(mac); err != nil {
			return badAnnotation(fmt.Errorf("annotation %s: %w", annotationMAC, err))
		}
		req.MAC = strings.ToLower(mac)
	}
	pools, err := notedPools(notes)
	if err == nil && len(pools) > 0 {
		req.Pools, req.PoolsNoted = pools, true
	}
	req.Annotated = true
	return err
}

// AnnotateByNamespace brings in what the annotations of the pod's namespace ask
// for, where the pod's own say nothing of it.
func AnnotateByNamespace(req *cniwire.AddRequest, notes map[string]string) error {
	if req.PoolsNoted {
		return nil
	}
	pools, err := notedPools(notes)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", req.Pod.Namespace, err)
	}
	if len(pools) > 0 {
		req.Pools, req.PoolsNoted = pools, true
	}
	return nil
}
