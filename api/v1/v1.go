// SPDX-License-Identifier: Apache-2.0

// Package v1 holds the kinds that are Ocicat's own, in the group ocicat.net:
// settings that Calico's resources have no place for, and what agents report.
package v1

import (
	"strconv"
	"time"

	"github.com/ocicat-net/ocicat/api/meta"
)

// APIVersion is the group and version of every kind here.
const APIVersion = "ocicat.net/v1"

// KindOcicatConfiguration is the kind of an OcicatConfiguration.
const KindOcicatConfiguration = "OcicatConfiguration"

// OcicatConfiguration holds settings for all agents, under the name "default".
type OcicatConfiguration struct {
	meta.Type
	// Metadata names the object.
	Metadata meta.Object `json:"metadata"`
	// Spec holds the settings.
	Spec OcicatConfigurationSpec `json:"spec"`
}

// OcicatConfigurationSpec holds settings for all agents. What is left out
// keeps its default, also when a later version changes it.
type OcicatConfigurationSpec struct {
	// RouteProtocol is the protocol number of the routes agents write, 5 to
	// 255; default 12, which iproute2 prints as "bird". Choose 80 where a BIRD
	// runs on the same hosts.
	RouteProtocol *int `json:"routeProtocol,omitempty"`
	// EndpointMetric is the metric of the pods' /32 routes; default 0. Use
	// 1024 in clusters that also have Calico nodes.
	EndpointMetric *int64 `json:"endpointMetric,omitempty"`
	// ReserveSize is how many addresses a node holds ready so that a pod needs
	// no round trip to the datastore; default 16, 0 turns the reserve off.
	ReserveSize *int `json:"reserveSize,omitempty"`
	// PermanentGateway gives every pod a permanent neighbour entry for its
	// gateway 169.254.1.1, so that it needs no proxy ARP; default true.
	PermanentGateway *bool `json:"permanentGateway,omitempty"`
	// PeerPrefixLimit is how many prefixes a BGP peer may announce before its
	// session is ended with a Cease, 1 to 4000000; default 500000. From four
	// fifths of it the agent's log warns.
	PeerPrefixLimit *int `json:"peerPrefixLimit,omitempty"`
}

// Defaults of OcicatConfigurationSpec.
const (
	DefaultRouteProtocol = 12
	DefaultReserveSize   = 16
	DefaultPrefixLimit   = 500_000
	maxReserve           = 4096
	maxPrefixLimit       = 4_000_000
)

// TypeMeta returns the object's kind and version.
func (c *OcicatConfiguration) TypeMeta() *meta.Type { return &c.Type }

// ObjectMeta returns the object's name and labels.
func (c *OcicatConfiguration) ObjectMeta() *meta.Object { return &c.Metadata }

// SetDefaults does nothing: what is left out keeps its default also when a
// later version changes it.
func (c *OcicatConfiguration) SetDefaults() {}

// Selectors lists the fields that hold selectors: none.
func (c *OcicatConfiguration) Selectors() []meta.Field { return nil }

// Reserve is spec.reserveSize with its default.
func (c *OcicatConfiguration) Reserve() int { return or(c.Spec.ReserveSize, DefaultReserveSize) }

// Protocol is spec.routeProtocol with its default.
func (c *OcicatConfiguration) Protocol() int { return or(c.Spec.RouteProtocol, DefaultRouteProtocol) }

// Metric is spec.endpointMetric with its default.
func (c *OcicatConfiguration) Metric() uint32 { return uint32(or(c.Spec.EndpointMetric, 0)) }

// PermGateway is spec.permanentGateway with its default.
func (c *OcicatConfiguration) PermGateway() bool { return or(c.Spec.PermanentGateway, true) }

// PrefixLimit is spec.peerPrefixLimit with its default.
func (c *OcicatConfiguration) PrefixLimit() int {
	return or(c.Spec.PeerPrefixLimit, DefaultPrefixLimit)
}

func or[T any](field *T, value T) T {
	if field == nil {
		return value
	}
	return *field
}

// Validate reports what is wrong with the configuration on its own. Protocols
// 1 to 4 are those of the kernel and of people's own static routes.
func (c *OcicatConfiguration) Validate() []meta.Finding {
	var found []meta.Finding
	if c.Metadata.Name != "default" {
		found = append(found, meta.Finding{Path: "metadata.name", Value: c.Metadata.Name, Want: "the name default: there is one object of this kind"})
	}
	if p := c.Protocol(); p < 5 || p > 255 {
		found = append(found, meta.Finding{Path: "spec.routeProtocol", Value: strconv.Itoa(p), Want: "a number from 5 to 255"})
	}
	if m := or(c.Spec.EndpointMetric, 0); m < 0 || m > 1<<32-1 {
		found = append(found, meta.Finding{Path: "spec.endpointMetric", Value: strconv.FormatInt(m, 10), Want: "a number from 0 to 4294967295"})
	}
	if r := c.Reserve(); r < 0 || r > maxReserve {
		found = append(found, meta.Finding{Path: "spec.reserveSize", Value: strconv.Itoa(r), Want: "a number from 0 to 4096"})
	}
	if l := c.PrefixLimit(); l < 1 || l > maxPrefixLimit {
		found = append(found, meta.Finding{Path: "spec.peerPrefixLimit", Value: strconv.Itoa(l), Want: "a number from 1 to 4000000"})
	}
	return found
}

// Heartbeat intervals of a NodeStatus, in the terms of its readers.
const (
	// StatusInterval is how often an agent writes its NodeStatus at least.
	StatusInterval = time.Minute
	// StaleAfter is the age from which a NodeStatus no longer says anything
	// about its node's present.
	StaleAfter = 3 * StatusInterval
)
