// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"sigs.k8s.io/yaml"
)

const (
	chartDir      = "../../deploy/charts/ocicat"
	manifestFile  = "../../deploy/ocicat.yaml"
	uninstallFile = "../../deploy/uninstall.yaml"
)

// with renders the chart with values written as YAML.
func with(t *testing.T, text string) (string, error) {
	t.Helper()
	var values map[string]any
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return render(chartDir, values)
}

func TestManifestIsTheChart(t *testing.T) {
	want, err := render(chartDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(manifestFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(have)); diff != "" {
		t.Errorf("deploy/ocicat.yaml is not what the chart renders, run make manifest (-want +got):\n%s", diff)
	}
}

func TestUninstallIsTheChart(t *testing.T) {
	want, err := renderUninstall(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(uninstallFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(have)); diff != "" {
		t.Errorf("deploy/uninstall.yaml is not what the chart renders, run make manifest (-want +got):\n%s", diff)
	}
	if strings.Count(want, "\nkind: ") != 1 || !strings.Contains(want, "kind: DaemonSet") {
		t.Errorf("deploy/uninstall.yaml is more than the DaemonSet: who deletes it would delete that:\n%s", want)
	}
	release, err := with(t, "uninstall: {enabled: true}")
	if err != nil || strings.Contains(release, "name: ocicat-node\n  namespace: kube-system\n  labels:\n    app.kubernetes.io/name: ocicat\n    app.kubernetes.io/instance: ocicat\n    app.kubernetes.io/version: \"dev\"\n    k8s-app") || !strings.Contains(release, "CustomResourceDefinition") {
		t.Errorf("a release that uninstalls has agents, or no definitions: %v", err)
	}
}

func TestEveryRightHasItsReason(t *testing.T) {
	table, err := allRights(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := document(string(page), table)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(page)); diff != "" {
		t.Errorf("docs/security.md does not say what the chart gives, run make manifest (-want +got):\n%s", diff)
	}
	for rule, refusal := range map[string]string{
		"- apiGroups: [\"\"]\n  resources: [pods]\n  verbs: [get]":                     "rule on [pods] has no",
		"# because\n- apiGroups: [\"\"]\n  resources: [pods]\n  verbs: [get]":          "rule on [pods] has no",
		"# why: names\n- apiGroups: [\"\"]\n  resources: [pods]\n  verbs: [get, list]": "",
	} {
		table, err := rights("kind: Role\nmetadata: {name: r}\nrules:\n" + rule)
		if refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)) {
			t.Errorf("%s: %v", rule, err)
		}
		if refusal == "" && !strings.HasSuffix(table, "| `r` | get, list | `pods` | names |\n") {
			t.Errorf("%s: %s, %v", rule, table, err)
		}
	}
}

// TestDefinitionsAreUpgraded: Helm installs what lies in crds/, and never
// upgrades it.
func TestDefinitionsAreUpgraded(t *testing.T) {
	if _, err := os.Stat(chartDir + "/crds"); err == nil {
		t.Error("the chart has a directory crds: put definitions into files/crds")
	}
	manifest, err := render(chartDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(chartDir + "/files/crds")
	if err != nil {
		t.Fatal(err)
	}
	if kept := strings.Count(manifest, "helm.sh/resource-policy: keep\n"); kept != len(files) || kept == 0 {
		t.Errorf("%d definitions survive an uninstall, of %d", kept, len(files))
	}
}

func TestLint(t *testing.T) {
	for _, m := range lint.All(chartDir, nil, namespace, false).Messages {
		if m.Severity >= support.WarningSev {
			t.Errorf("%v", m)
		}
	}
}

// TestSchemaRefuses has one wrong value for each kind of mistake, and what the
// refusal has to name.
func TestSchemaRefuses(t *testing.T) {
	for text, name := range map[string]string{
		"imagee: {}":                                "imagee",
		"image: {repo: x}":                          "repo",
		"image: {pullPolicy: always}":               "pullPolicy",
		"image: {tag: 'a b'}":                       "tag",
		"image: {digest: sha256:12}":                "digest",
		"image: {pullSecrets: [{name: x}]}":         "pullSecrets",
		"ipPool: {cidr: 10.0.0.0}":                  "cidr",
		"ipPool: {cidr: 'fd00::/64'}":               "cidr",
		"ipPool: {blockSize: 19}":                   "blockSize",
		"ipPool: {blockSize: '26'}":                 "blockSize",
		"ipPool: {ipipMode: Always}":                "ipipMode",
		"ipPool: {natOutgoing: 'yes'}":              "natOutgoing",
		"ipPool: {nodeSelector: ''}":                "nodeSelector",
		"ipPool: {blocksize: 26}":                   "blocksize",
		"bgp: {asNumber: 0}":                        "asNumber",
		"bgp: {asNumber: 4294967296}":               "asNumber",
		"bgp: {asNumber: AS64512}":                  "asNumber",
		"bgp: {routerID: 192.0.2.1}":                "routerID",
		"bgp: {passwordSecret: A}":                  "passwordSecret",
		"node: {ip: 192.0.2.1}":                     "ip",
		"node: {ipAutodetectionMethod: first}":      "ipAutodetectionMethod",
		"node: {ipAutodetectionMethod: interface=}": "ipAutodetectionMethod",
		"node: {interfacePrefix: calico}":           "interfacePrefix",
		"node: {mtu: 100}":                          "mtu",
		"node: {logLevel: info}":                    "logLevel",
		"node: {healthPort: 0}":                     "healthPort",
		"node: {metrics: {port: 65536}}":            "port",
		"node: {metrics: {enable: true}}":           "enable",
		"node: {env: [{name: A, value: b}]}":        "env",
		"node: {env: {A-B: c}}":                     "A-B",
		"node: {env: {A: {b: c}}}":                  "A",
		"node: {privileged: 1}":                     "privileged",
		"node: {maxUnavailable: 0}":                 "maxUnavailable",
		"node: {maxUnavailable: 0%}":                "maxUnavailable",
		"node: {tolerations: [{effects: x}]}":       "effects",
		"node: {nodeSelector: {a: 1}}":              "nodeSelector",
		"node: {resources: {requests: {cpu: x}}}":   "cpu",
		"node: {resources: {requests: {gpu: 1}}}":   "gpu",
		"node: {resources: {request: {}}}":          "request",
		"cni: {binDir: opt}":                        "binDir",
		"cni: {confName: 10-ocicat.conf}":           "confName",
		"controller: {replicas: 0}":                 "replicas",
		"controller: {enable: true}":                "enable",
		"rbac: {create: false}":                     "create",
		"admissionPolicy: {enabled: 'no'}":          "enabled",
		"crds: {keep: true}":                        "keep",
		"uninstall: {enabled: 1}":                   "enabled",
	} {
		_, err := with(t, text)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: want a refusal that names %q: %v", text, name, err)
		}
	}
}

// TestValuesAct has, for values that are right, a line that the manifest then
// has and has not without them.
func TestValuesAct(t *testing.T) {
	usual, err := render(chartDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, line := range map[string]string{
		"image: {tag: v2}": "image: ghcr.io/ocicat-net/ocicat:v2",
		"image: {digest: 'sha256:" + strings.Repeat("0", 64) + "'}": "image: ghcr.io/ocicat-net/ocicat@sha256:0000",
		"image: {pullSecrets: [key]}":                               "- name: key",
		"ipPool: {create: false}":                                   env("NO_DEFAULT_POOLS", "true"),
		"ipPool: {cidr: 10.0.0.0/16}":                               env("CALICO_IPV4POOL_CIDR", "10.0.0.0/16"),
		"ipPool: {natOutgoing: false}":                              env("CALICO_IPV4POOL_NAT_OUTGOING", "false"),
		"bgp: {asNumber: 4200000000}":                               env("AS", "4200000000"),
		"bgp: {asNumber: '64512.1'}":                                env("AS", "64512.1"),
		"bgp: {passwordSecret: md5}":                                "secret: {secretName: md5, defaultMode: 0400}",
		"node: {ip: autodetect}":                                    env("IP", "autodetect"),
		"node: {ipAutodetectionMethod: 'interface=ens.*'}":          env("IP_AUTODETECTION_METHOD", "interface=ens.*"),
		"node: {env: {IP_AUTODETECTION_METHOD: first-found}}":       env("IP_AUTODETECTION_METHOD", "first-found"),
		"node: {env: {FELIX_HEALTHHOST: '::1', FELIX_A: false}}":    env("FELIX_A", "false"),
		"node: {mtu: 1400}":                                         env("CNI_MTU", "1400"),
		"node: {maxUnavailable: 20%}":                               "maxUnavailable: 20%",
		"node: {privileged: true}":                                  "privileged: true",
		"node: {healthPort: 9199}":                                  "port: 9199, path: /readiness",
		"cni: {binDir: /usr/lib/cni}":                               "hostPath: {path: /usr/lib/cni,",
		"cni: {confName: 05-ocicat.conflist}":                       env("CNI_CONF_NAME", "05-ocicat.conflist"),
		"controller: {replicas: 2}":                                 "replicas: 2",
	} {
		got, err := with(t, text)
		if err != nil || !strings.Contains(got, line) {
			t.Errorf("%s: the manifest has no %q: %v", text, line, err)
		}
		if strings.Contains(usual, line) {
			t.Errorf("%s: the manifest has %q anyway", text, line)
		}
	}
	for text, line := range map[string]string{
		"rbac: {userRoles: false}":          "name: ocicat-viewer",
		"admissionPolicy: {enabled: false}": "ValidatingAdmissionPolicy",
		"crds: {install: false}":            "CustomResourceDefinition",
		"node: {privileged: true}":          "-proc-sys=",
		"controller: {enabled: false}":      "ocicat-controller",
		"uninstall: {enabled: true}":        "-cni-bin-dir=/host/opt/cni/bin\n            - -cni-net-dir",
	} {
		got, err := with(t, text)
		if err != nil || strings.Contains(got, line) || !strings.Contains(usual, line) {
			t.Errorf("%s: want no %q, which is there without: %v", text, line, err)
		}
	}
}

func env(name, value string) string {
	return "- name: " + name + "\n              value: \"" + value + `"`
}

// TestSchemaKnowsEveryValue walks both: a value without a place in the schema
// would be refused, one without a default would be nowhere to be found.
func TestSchemaKnowsEveryValue(t *testing.T) {
	var schema struct {
		Properties map[string]struct{ Properties map[string]any } `json:"properties"`
	}
	read(t, chartDir+"/values.schema.json", &schema)
	var values map[string]map[string]any
	read(t, chartDir+"/values.yaml", &values)
	for section, s := range schema.Properties {
		for name := range s.Properties {
			if _, ok := values[section][name]; !ok {
				t.Errorf("%s.%s has no default in values.yaml", section, name)
			}
		}
	}
	if text, err := os.ReadFile(chartDir + "/values.schema.json"); err != nil || strings.Count(string(text), `"type": "object"`) > strings.Count(string(text), `"additionalProperties"`)+1 {
		t.Errorf("an object of the schema takes any name: %v", err)
	}
}

// read reads a file of YAML or JSON.
func read(t *testing.T, file string, v any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}
