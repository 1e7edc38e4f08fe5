// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/base64"
	"strings"
	"testing"
)

// TestRedactText: secrets in the forms logs hold them are gone, what stands
// beside them is not.
func TestRedactText(t *testing.T) {
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJodXNoIn0.aHVzaA-hush"
	blob := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("apiVersion: v1\nkind: Config\n", 10)))
	for _, test := range []struct{ text, secret, kept string }{
		{`msg="session up" peer=192.0.2.1 password=hush! state=up`, "hush", "state=up"},
		{`msg="session up" password="hush \"2\" rest" state=up`, "rest", "state=up"},
		{`{"peer":"tor","password":"hu\"sh","as":64512}`, "sh\"", `"as":64512`},
		{`body="{\"spec\":{\"password\":\"hush\",\"as\":1}}"`, "hush", `\"as\":1`},
		{`peer tor: password "hush hush" is too long`, "hush", "is too long"},
		{`kubeconfig="users:\n- user:\n    token: hush\n    client-key-data: aHVzaA==\n  name: anna"`, "aHVzaA", "name: anna"},
		{`kubeconfig="users:\n- user:\n    token: hush\n  name: anna"`, "hush", "name: anna"},
		{"    client-key-data: aHVzaA==\n    name: anna\n", "aHVzaA", "name: anna"},
		{"ETCD_PASSWORD=hush,er NODENAME=a", "hush", "NODENAME=a"},
		{"ETCD_PASSWORD=hush,er NODENAME=a", "er ", "NODENAME=a"},
		{"token " + jwt + " refused", "eyJ", "refused"},
		{"Authorization: Bearer hush-1234567 sent", "hush", "sent"},
		{"dial https://anna:hush@proxy:3128: refused", "hush", "proxy:3128"},
		{"key -----BEGIN EC PRIVATE KEY-----\nhush\n-----END EC PRIVATE KEY----- bad", "hush", "bad"},
		{"decode " + blob + ": bad", blob[:40], ": bad"},
	} {
		got := string(redactText([]byte(test.text)))
		if strings.Contains(got, test.secret) || !strings.Contains(got, test.kept) {
			t.Errorf("%s\nbecomes %s\nwith %q or without %q", test.text, got, test.secret, test.kept)
		}
	}
	for _, text := range []string{
		"OC1001 session with 192.0.2.1 is Active: connection refused", "block 172.16.109.64-26 claimed by k8s-node-1",
		"no Secret kube-system/bgp-passwords", "peer tor names key tor of Secret bgp",
	} {
		if got := string(redactText([]byte(text))); got != text {
			t.Errorf("%s becomes %s", text, got)
		}
	}
}

// TestRedactVariable: a variable of a container with the name of a secret.
func TestRedactVariable(t *testing.T) {
	got, err := redacted(map[string]any{"env": []any{map[string]any{"name": "ETCD_PASSWORD", "value": "hush"}, map[string]any{"name": "IP", "value": "autodetect"}}})
	if err != nil || strings.Contains(string(got), "hush") || !strings.Contains(string(got), "autodetect") {
		t.Errorf("%s, %v", got, err)
	}
}
