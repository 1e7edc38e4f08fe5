// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"crypto/sha3"
	"encoding/base32"
)

// hostnameHash is a node's name as a label's value: names may be longer than
// the 63 characters of one, so Calico writes SHA3-256 in base 32.
func hostnameHash(node string) string {
	sum := sha3.Sum256([]byte(node))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
}
