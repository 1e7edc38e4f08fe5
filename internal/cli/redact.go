// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// secretWords are parts of the names of fields whose text is nobody's business.
var secretWords = []string{"password", "passwd", "passphrase", "token", "secret", "credential", "privatekey", "private-key", "client-key"}

// lastApplied is the annotation in which kubectl keeps a whole object as text.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// hidden is what stands for a secret.
const hidden = "redacted"

// redacted is value as JSON without the text of secrets. References to secrets
// stay.
func redacted(value any) ([]byte, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var tree any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&tree); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return json.MarshalIndent(redact(tree), "", "  ")
}

// redact is a decoded value without secrets; it changes the one given.
func redact(tree any) any {
	switch at := tree.(type) {
	case string:
		return string(redactText([]byte(at)))
	case []any:
		for i, item := range at {
			at[i] = redact(item)
		}
	case map[string]any:
		delete(at, lastApplied)
		for name, item := range at {
			if _, text := item.(string); text && isSecret(name) {
				at[name] = hidden
				continue
			}
			at[name] = redact(item)
		}
		name, _ := at["name"].(string)
		if _, text := at["value"].(string); text && isSecret(name) { // a variable of a container
			at["value"] = hidden
		}
	}
	return tree
}

func isSecret(name string) bool {
	name = strings.NewReplacer("_", "", ".", "").Replace(strings.ToLower(name))
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) })
}

// secretTexts are what secrets look like in text without structure, as lines of
// a log are, and what is left of each. A value may be quoted, also once more
// within quotes.
var secretTexts = []struct {
	look *regexp.Regexp
	left string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), hidden},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[\w.~+/=:-]{8,}`), "${1} " + hidden},
	{regexp.MustCompile(`\beyJ[\w-]{8,}\.[\w-]+(\.[\w-]*)?`), hidden},
	{regexp.MustCompile(`(://)[^\s/@"']+@`), "${1}" + hidden + "@"},
	{regexp.MustCompile(`(?i)([\w.-]*(?:` + strings.Join(secretWords, "|") + `|private_key|client_key)[\w.-]*[\\"']*\s*[:=]\s*)` +
		`(?:\\+"(?:[^"\\]|\\[^"\\])*\\+"|"(?:[^"\\]|\\.)*"|'[^']*'|(?:[^\s"'\\]|\\[^n"])+)`), "${1}" + hidden},
	{regexp.MustCompile(`(?i)\b((?:password|passwd|passphrase)\s+\\*)"(?:[^"\\]|\\[^"])*\\*"`), `${1}` + hidden},
	{regexp.MustCompile(`[A-Za-z0-9+/]{200,}={0,2}`), hidden}, // a kubeconfig or key as base64
}

// redactText is text without what looks like secrets.
func redactText(text []byte) []byte {
	for _, secret := range secretTexts {
		text = secret.look.ReplaceAll(text, []byte(secret.left))
	}
	return text
}
