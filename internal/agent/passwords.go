// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"

	"github.com/ocicat-net/ocicat/internal/fault"
)

// maxPassword is the longest TCP MD5 key the kernel takes, in bytes.
const maxPassword = 80

// ReadPasswords reads the TCP MD5 keys of BGP peers, a YAML mapping of
// BGPPeer name to key, from a file only its owner may read. No message ever
// holds a key.
func ReadPasswords(path string) (map[string]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.Hint(fault.New(fault.Invalid, "read BGP passwords: %w", err), "Correct the path of the password file, or leave it out.")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fault.Hint(fault.New(fault.Invalid, "read BGP passwords: %s has mode %04o: others may read it", path, mode), "chmod 600 %s", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.Internal, "read BGP passwords: %w", err)
	}
	passwords := map[string]string{}
	if err := yaml.Unmarshal(text, &passwords); err != nil {
		// The parser's own words could quote a password.
		return nil, fault.Hint(fault.New(fault.Invalid, "read BGP passwords: %s is not a mapping of peer names to passwords", path), `Write one line for each peer: tor-a: "secret"`)
	}
	for name, password := range passwords {
		if len(password) == 0 || len(password) > maxPassword {
			return nil, fault.Hint(fault.New(fault.Invalid, "read BGP passwords: the password of %q in %s has %d bytes", name, path, len(password)),
				"%s", fmt.Sprintf("A password has 1 to %d bytes (TCP MD5, RFC 2385).", maxPassword))
		}
	}
	return passwords, nil
}
