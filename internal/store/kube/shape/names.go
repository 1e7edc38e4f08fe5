// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"regexp"
	"strings"

	"github.com/ocicat-net/ocicat/internal/fault"
	"github.com/ocicat-net/ocicat/internal/names"
	"github.com/ocicat-net/ocicat/internal/store"
)

// maxName is the longest name of an object in bytes.
const maxName = 253

// subdomain is what Kubernetes lets an object be called (RFC 1123).
var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// objectName is what the object of a key is called in Kubernetes, by Calico's
// rules. A name Kubernetes does not allow is Invalid.
func objectName(key store.Key) (string, error) {
	if err := key.Validate(); err != nil {
		return "", err
	}
	name := key.Name
	switch key.Kind {
	case store.Block:
		name = cidrName(name)
	case store.Affinity:
		node, block, _ := strings.Cut(name, "/")
		name = affinityName(node, cidrName(block))
	case store.Handle:
		name = strings.ToLower(name)
	}
	if len(name) > maxName || !subdomain.MatchString(name) {
		err := fault.New(fault.Invalid, "key %s %q: Kubernetes allows no object of the name %q", key.Kind, key.Name, name)
		return "", fault.Hint(err, "use lower-case letters, digits, \"-\" and \".\", 253 characters at most")
	}
	return name, nil
}

// cidrName is a block's name as it can stand in an object's name.
func cidrName(block string) string {
	return strings.NewReplacer(".", "-", ":", "-", "/", "-").Replace(block)
}

// affinityName joins node and block; too long a name is cut in the node's part
// and gets eleven digits of a hash of both.
func affinityName(node, block string) string {
	name := node + "-" + block
	if len(name) < maxName {
		return name
	}
	sum := sha256.Sum256([]byte(node + "+" + block))
	return node[:max(0, maxName-1-len(block)-13)] + "-" + block + "-" + hex.EncodeToString(sum[:])[:11]
}

// blockName is the datastore's name of the block with this CIDR.
func blockName(cidr string) (string, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "", err
	}
	return names.Block(p), nil
}
