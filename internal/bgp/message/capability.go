// SPDX-License-Identifier: Apache-2.0

package message

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/ocicat-net/ocicat/internal/speaker"
)

// AFI is an address family identifier, SAFI a subsequent one (RFC 4760).
type (
	AFI  uint16
	SAFI uint8
)

// Family identifiers of the IANA registries.
const (
	AFIIPv4     AFI  = 1
	AFIIPv6     AFI  = 2
	SAFIUnicast SAFI = 1
)

// Family is one kind of routes.
type Family struct {
	AFI  AFI
	SAFI SAFI
}

// IPv4Unicast is the family this speaker routes. IPv6 unicast becomes another
// one by a line in families (prefix.go).
var IPv4Unicast = Family{AFI: AFIIPv4, SAFI: SAFIUnicast}

// String is "IPv4 unicast" or numbers.
func (f Family) String() string {
	switch f {
	case IPv4Unicast:
		return "IPv4 unicast"
	case Family{AFI: AFIIPv6, SAFI: SAFIUnicast}:
		return "IPv6 unicast"
	}
	return fmt.Sprintf("AFI %d SAFI %d", f.AFI, f.SAFI)
}

// Capability codes (IANA registry) that are understood.
const (
	capMultiprotocol = 1  // RFC 4760
	capRouteRefresh  = 2  // RFC 2918
	capRestart       = 64 // RFC 4724
	capAS4           = 65 // RFC 6793
)

// Capabilities are what an OPEN announces (RFC 5492).
type Capabilities struct {
	Families     []Family // multiprotocol; without any, IPv4 unicast is meant
	RouteRefresh bool
	AS4          bool             // four-byte AS numbers; the number is Open.AS
	Restart      *GracefulRestart // nil when not announced
	Unknown      []Capability     // others in the order seen, ours to ignore
}

// Capability is one that this package does not interpret.
type Capability struct {
	Code  uint8
	Value []byte
}

// GracefulRestart is the capability of RFC 4724 with RFC 8538's flag.
type GracefulRestart struct {
	Restarting   bool   // R: the sender has restarted; do not wait for it to send End-of-RIB first
	Notification bool   // N: keep routes over NOTIFICATION and hold timer expiry, too
	Time         uint16 // seconds the sender may take to come back, at most 4095
	Families     []RestartFamily
}

// RestartFamily is a family the sender keeps over a restart.
type RestartFamily struct {
	Family     Family
	Forwarding bool // F: the sender kept forwarding while it was away
}

const (
	restartFlagR      = 0x8000
	restartFlagN      = 0x4000
	maxRestartTime    = 0x0fff
	restartForwarding = 0x80
	maxCapabilityLen  = 255
)

// HasFamily says whether the sender of c speaks f. An OPEN without any
// multiprotocol capability means IPv4 unicast (RFC 4760 section 8).
func (c *Capabilities) HasFamily(f Family) bool {
	return slices.Contains(c.Families, f) || len(c.Families) == 0 && f == IPv4Unicast
}

// Kept returns what g says about f; present is false when g is nil or does
// not list f.
func (g *GracefulRestart) Kept(f Family) (forwarding, present bool) {
	if g == nil {
		return false, false
	}
	for _, kept := range g.Families {
		if kept.Family == f {
			return kept.Forwarding, true
		}
	}
	return false, false
}

// decodeCapabilities reads the value of one capabilities parameter. Where a
// capability that can stand only once comes again the last counts, as RFC
// 4724 section 3 says of its own.
func (o *Open) decodeCapabilities(b []byte) error {
	for len(b) > 0 {
		if len(b) < 2 || int(b[1]) > len(b)-2 {
			return refuse(OpenError, 0, nil, "capability %d is cut off", b[0])
		}
		code, value := b[0], b[2:2+int(b[1])]
		if err := o.decodeCapability(code, value); err != nil {
			return err
		}
		b = b[2+len(value):]
	}
	return nil
}

func (o *Open) decodeCapability(code uint8, value []byte) error {
	if !validLength(code, len(value)) {
		return refuse(OpenError, 0, nil, "capability %d has %d bytes", code, len(value))
	}
	c := &o.Capabilities
	switch code {
	case capMultiprotocol:
		f := Family{AFI: AFI(binary.BigEndian.Uint16(value)), SAFI: SAFI(value[3])}
		if !slices.Contains(c.Families, f) {
			c.Families = append(c.Families, f)
		}
	case capRouteRefresh:
		c.RouteRefresh = true
	case capRestart:
		c.Restart = decodeRestart(value)
	case capAS4:
		c.AS4, o.AS = true, speaker.ASN(binary.BigEndian.Uint32(value))
	default:
		c.Unknown = append(c.Unknown, Capability{Code: code, Value: clone(value)})
	}
	return nil
}

// validLength says whether a capability's value may have n bytes.
func validLength(code uint8, n int) bool {
	switch code {
	case capMultiprotocol, capAS4:
		return n == 4
	case capRouteRefresh:
		return n == 0
	case capRestart:
		return n%4 == 2
	}
	return true
}

// decodeRestart reads a value of 2 + 4n bytes.
func decodeRestart(value []byte) *GracefulRestart {
	flags := binary.BigEndian.Uint16(value)
	g := &GracefulRestart{
		Restarting:   flags&restartFlagR != 0,
		Notification: flags&restartFlagN != 0,
		Time:         flags & maxRestartTime,
	}
	for rest := value[2:]; len(rest) >= 4; rest = rest[4:] {
		g.Families = append(g.Families, RestartFamily{
			Family:     Family{AFI: AFI(binary.BigEndian.Uint16(rest)), SAFI: SAFI(rest[2])},
			Forwarding: rest[3]&restartForwarding != 0,
		})
	}
	return g
}

// appendCapabilities appends the announced capabilities, each as code, length
// and value.
func (o *Open) appendCapabilities(dst []byte) ([]byte, error) {
	c := &o.Capabilities
	for _, f := range c.Families {
		dst = append(dst, capMultiprotocol, 4)
		dst = binary.BigEndian.AppendUint16(dst, uint16(f.AFI))
		dst = append(dst, 0, byte(f.SAFI))
	}
	if c.RouteRefresh {
		dst = append(dst, capRouteRefresh, 0)
	}
	if c.Restart != nil {
		value, err := c.Restart.value()
		if err != nil {
			return nil, err
		}
		dst = append(dst, capRestart, byte(len(value)))
		dst = append(dst, value...)
	}
	if c.AS4 {
		dst = append(dst, capAS4, 4)
		dst = binary.BigEndian.AppendUint32(dst, uint32(o.AS))
	}
	for _, u := range c.Unknown {
		if len(u.Value) > maxCapabilityLen {
			return nil, fmt.Errorf("capability %d has %d bytes", u.Code, len(u.Value))
		}
		dst = append(dst, u.Code, byte(len(u.Value)))
		dst = append(dst, u.Value...)
	}
	return dst, nil
}

func (g *GracefulRestart) value() ([]byte, error) {
	if g.Time > maxRestartTime {
		return nil, fmt.Errorf("restart time %d s is more than %d s", g.Time, maxRestartTime)
	}
	if size := 2 + 4*len(g.Families); size > maxCapabilityLen {
		return nil, fmt.Errorf("graceful restart of %d families", len(g.Families))
	}
	flags := g.Time
	if g.Restarting {
		flags |= restartFlagR
	}
	if g.Notification {
		flags |= restartFlagN
	}
	value := binary.BigEndian.AppendUint16(nil, flags)
	for _, kept := range g.Families {
		value = binary.BigEndian.AppendUint16(value, uint16(kept.Family.AFI))
		var forwarding byte
		if kept.Forwarding {
			forwarding = restartForwarding
		}
		value = append(value, byte(kept.Family.SAFI), forwarding)
	}
	return value, nil
}
