// SPDX-License-Identifier: Apache-2.0

package env

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite docs/environment.md")

const docsHead = `# Environment variables

The agent reads the variables of ` + "`calico/node`" + ` with their meaning there. They
matter at start.

The first start makes the default pool of them, where the cluster has no pool at
all, and notes on it what it wrote (annotation ` + "`ocicat.net/applied-env`" + `). A later
start changes a field of that pool only if this node's variable has another value
than at its last start, and the field still holds what was noted: a rolling change
does not turn a pool to and fro, and an edit stays. CIDR and block size are never
changed. Where a variable and the pool differ, ` + "`ocicat status`" + ` says so (OC5009).

A value that cannot be right, or that asks for something this version does not
do, ends the start with an error that names the variable. A variable without
effect is reported as problem OC5005 in ` + "`ocicat status`" + `, unless its value asks
for what happens anyway; so is a variable beginning with ` + "`CALICO_` or `FELIX_`" + `
that stands in neither table. Names beginning with ` + "`FELIX_`" + ` may have any letter
case. An empty variable is one that is not set.

This page is made from the table in ` + "`internal/env/table.go`" + `.

`

const docsDifferences = `
## The ConfigMap of Calico's manifest

The keys of ` + "`calico-config`" + ` reach Calico's containers by variables, and do so here:

| key | variable |
|---|---|
| ` + "`calico_backend`" + ` | CALICO_NETWORKING_BACKEND |
| ` + "`veth_mtu`" + ` | CNI_MTU; also FELIX_IPINIPMTU, _VXLANMTU and _WIREGUARDMTU, which matter to encapsulation alone |
| ` + "`cni_network_config`" + ` | CNI_NETWORK_CONFIG, without effect: the agent makes the configuration itself |
| ` + "`typha_service_name`" + ` | FELIX_TYPHAK8SSERVICENAME: there is no Typha |

## Differences from Calico

| variable | here | Calico | why |
|---|---|---|---|
| CALICO_IPV4POOL_IPIP, _VXLAN | other values than Never are refused | applied | encapsulation comes with its own issue |
| CALICO_IPV4POOL_NAT_OUTGOING, _DISABLE_BGP_EXPORT | a word that is neither yes nor no is refused | taken for yes | a misspelt "flase" should not turn a thing on |
| CALICO_IPV4POOL_DISABLE_BGP_EXPORT | empty is not set | empty is true | a pool whose routes nobody learns is a trap |
| CALICO_IPV4POOL_CIDR | host bits are refused | not compared | the CIDR that is meant should be the one written |
| CALICO_IPV6POOL_… | no effect, reported | a pool is made | IPv6 comes with a later issue |
| IP_AUTODETECTION_METHOD | first-found and skip-interface leave out links that are down | they do not | such a link cannot carry sessions |
| IP_AUTODETECTION_METHOD | not set: the best score | not set: first-found | of two devices, which was made last says nothing |
`

// TestDocs compares docs/environment.md with the table; -update rewrites it.
func TestDocs(t *testing.T) {
	var b strings.Builder
	b.WriteString(docsHead + "## Applied\n\n| variable | meaning | default |\n|---|---|---|\n")
	for _, v := range Variables() {
		if v.Applied() {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.Name, v.Meaning, v.Default)
		}
	}
	b.WriteString("\n## Without effect\n\n| variable | meaning in Calico | why it has none |\n|---|---|---|\n")
	for _, v := range Variables() {
		if !v.Applied() {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.Name, v.Meaning, v.Why)
		}
	}
	b.WriteString(docsDifferences)
	const file = "../../docs/environment.md"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(have)); diff != "" {
		t.Errorf("run go test ./internal/env -update (-want +got):\n%s", diff)
	}
}
