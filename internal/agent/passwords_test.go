// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ocicat-net/ocicat/internal/agent"
	"github.com/ocicat-net/ocicat/internal/fault"
)

// A password file is read whole or refused, and no message holds a password.
func TestReadPasswords(t *testing.T) {
	const secret = "canary-3f9a"
	for name, test := range map[string]struct {
		text string
		mode os.FileMode
		ok   bool
	}{
		"right":          {"tor-a: " + secret + "\ntor-b: other\n", 0o600, true},
		"readable":       {"tor-a: " + secret, 0o640, false},
		"not a mapping":  {"- " + secret, 0o600, false},
		"nested":         {"tor-a: {x: " + secret + "}", 0o600, false},
		"empty password": {"tor-a: \"\"\ntor-b: " + secret, 0o600, false},
		"too long":       {"tor-a: " + secret + strings.Repeat("x", 80), 0o600, false},
	} {
		path := filepath.Join(t.TempDir(), "passwords")
		if err := os.WriteFile(path, []byte(test.text), test.mode); err != nil {
			t.Fatal(err)
		}
		got, err := agent.ReadPasswords(path)
		if test.ok {
			if err != nil || got["tor-a"] != secret || len(got) != 2 {
				t.Errorf("%s: %d passwords, %v", name, len(got), err)
			}
			continue
		}
		if !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" || strings.Contains(err.Error()+fault.HintOf(err), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := agent.ReadPasswords(filepath.Join(t.TempDir(), "none")); !fault.Is(err, fault.Invalid) {
		t.Errorf("no file: %v", err)
	}
}
