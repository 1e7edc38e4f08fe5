// SPDX-License-Identifier: Apache-2.0

package v3

import (
	"fmt"

	"github.com/ocicat-net/ocicat/api/meta"
)

// KindIPReservation is the kind of an IPReservation.
const KindIPReservation = "IPReservation"

// IPReservation keeps addresses of pools from being assigned automatically.
type IPReservation struct {
	meta.Type
	// Metadata names the reservation.
	Metadata meta.Object `json:"metadata"`
	// Spec lists what is reserved.
	Spec IPReservationSpec `json:"spec"`
}

// IPReservationSpec lists what an IPReservation reserves.
type IPReservationSpec struct {
	// ReservedCIDRs are ranges that are not assigned unless asked for by
	// address. A single address is written with /32 or /128. Pods that have one
	// already keep it.
	ReservedCIDRs []string `json:"reservedCIDRs,omitempty"`
}

// TypeMeta returns the object's kind and version.
func (r *IPReservation) TypeMeta() *meta.Type { return &r.Type }

// ObjectMeta returns the object's name and labels.
func (r *IPReservation) ObjectMeta() *meta.Object { return &r.Metadata }

// SetDefaults does nothing: a reservation has no defaults.
func (r *IPReservation) SetDefaults() {}

// Selectors lists the fields that hold selectors: none.
func (r *IPReservation) Selectors() []meta.Field { return nil }

// Validate reports what is wrong with the reservation on its own.
func (r *IPReservation) Validate() []meta.Finding {
	found := meta.CheckName("metadata.name", r.Metadata.Name)
	for i, cidr := range r.Spec.ReservedCIDRs {
		_, wrong := checkPrefix(fmt.Sprintf("spec.reservedCIDRs[%d]", i), cidr)
		found = append(found, wrong...)
	}
	return found
}
