// SPDX-License-Identifier: Apache-2.0

package ocicat

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ocicat-net/ocicat"

// layers is the map of the packages, lowest first: a package imports only
// packages of lines above its own. A new package gets its place here.
var layers = [][]string{
	{"api/meta", "internal/fault", "internal/buildinfo"},
	{"api/v1", "api/v3", "internal/statefile", "internal/cidr", "internal/selector", "internal/cniwire", "internal/netns", "internal/seat"},
	{"internal/names"},
	{"internal/host", "internal/speaker", "internal/problem"},
	{"internal/cluster"},
	{"internal/alloc", "internal/convert"},
	{"internal/core"},
	{"internal/trace"},
	{"internal/reconcile"},
	{"internal/store", "internal/localconn", "internal/httpd"},
	{"internal/store/etcdpath", "internal/store/kube/shape", "internal/kubeapi", "internal/portforward", "internal/metrics", "internal/localcopy"},
	{"internal/store/mem", "internal/store/etcd", "internal/store/kube", "internal/store/embed", "internal/store/storetest"},
	{"internal/nstest", "internal/storeopen"},
	{"internal/resource", "internal/uplink"},
	{"internal/env"},
	{"internal/bgp/message"},
	{"internal/bgp/session", "internal/bgp/table"},
	{"internal/bgp"},
	{"internal/kernel", "internal/nft", "internal/journal/tombstone"},
	{"internal/journal", "internal/probe", "internal/cniplugin", "internal/install", "internal/health", "internal/kubenode"},
	{"internal/feed", "internal/ipam", "internal/purge"},
	{"internal/cniserver", "internal/admin", "internal/controller", "internal/connectivity"},
	{"internal/agent"},
	{"internal/lab"},
	{"internal/lab/article", "bench/routes"},
	{"internal/cli"},
	{"cmd/ocicat", "cmd/ocicatd", "cmd/ocicat-cni", "cmd/ocicat-etcd", "bench", "bench/netlinkfloor", "tools/chart", "tools/image", "."},
}

// isTesting says whether a directory holds tests of whole programs and what
// they need: it may import anything and nothing else imports it.
func isTesting(dir string) bool { return strings.HasPrefix(dir, "test/") }

// pure are packages of decisions and values: no system, no network, no other
// module.
var pure = []string{
	"internal/fault", "internal/cidr", "internal/selector", "internal/names", "internal/host", "internal/speaker", "internal/problem",
	"internal/cluster", "internal/alloc", "internal/convert", "internal/core", "internal/trace", "internal/uplink",
	"internal/bgp/message", "internal/bgp/table", "internal/store/etcdpath", "internal/store/kube/shape",
}

// impure is what pure packages may not import of the standard library.
var impure = []string{"os", "net", "net/http", "os/exec", "syscall", "log/slog", "io/ioutil"}

// lean are packages that depend on no module besides golang.org/x/sys.
var lean = []string{"internal/bgp", "internal/bgp/session", "internal/cniwire", "internal/cniplugin", "internal/journal", "internal/store"}

// exclusive are imports that one place alone may have, and why.
var exclusive = []struct {
	prefix string
	users  []string // directories, or their beginnings with a slash at the end
	why    string
}{
	{"go.etcd.io/etcd/server", []string{"internal/store/embed"}, "the etcd server is larger than all the rest"},
	{module + "/internal/store/embed", []string{"cmd/ocicat-etcd"}, "the etcd server is larger than all the rest"},
	{"go.etcd.io/", []string{"internal/store/"}, "programs use the store"},
	{"google.golang.org/grpc", []string{"internal/store/"}, "programs use the store"},
	{module + "/internal/store/mem", nil, "it is for tests"},
	{module + "/internal/store/storetest", nil, "it is for tests"},
	{module + "/internal/nstest", nil, "it is for tests"},
	{"github.com/google/nftables", []string{"internal/nft"}, "one edge writes nftables"},
	{"github.com/mdlayher/netlink", []string{"internal/nft"}, "it comes with google/nftables; the rest speaks netlink without it"},
	{"testing", []string{"internal/store/storetest", "internal/nstest"}, "it is for tests"},
	{"github.com/spf13/cobra", []string{"internal/cli", "cmd/ocicat"}, "the other programs have few flags"},
	{"github.com/containernetworking/cni", []string{"internal/lab"}, "the plugin speaks CNI itself; a lab is a runtime and tests compare"},
}

func TestImportsGoDown(t *testing.T) {
	layer := map[string]int{}
	for n, packages := range layers {
		for _, p := range packages {
			layer[p] = n
		}
	}
	for _, s := range sources(t) {
		own, known := layer[s.dir()]
		if isTesting(s.dir()) {
			continue
		}
		if !known {
			t.Errorf("%s: package %s has no place in the map, layers_test.go", s.path, s.dir())
			continue
		}
		if s.isTest() {
			continue
		}
		for _, path := range s.imports() {
			dir, ours := strings.CutPrefix(path, module+"/")
			if there, known := layer[dir]; ours && (isTesting(dir) || known && there >= own) {
				t.Errorf("%s: imports %s, which does not stand above it in the map", s.path, dir)
			}
		}
	}
}

func TestImportsStayWhereTheyBelong(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() || isTesting(s.dir()) {
			continue
		}
		for _, path := range s.imports() {
			if slices.Contains(pure, s.dir()) && slices.Contains(impure, path) {
				t.Errorf("%s: imports %s, but decides without a system", s.path, path)
			}
			if foreign(path) && (slices.Contains(pure, s.dir()) || slices.Contains(lean, s.dir()) && !under(path, "golang.org/x/sys")) {
				t.Errorf("%s: imports %s, but needs no other module", s.path, path)
			}
			for _, rule := range exclusive {
				if under(path, rule.prefix) && !slices.ContainsFunc(rule.users, func(dir string) bool { return within(s.dir(), dir) }) {
					t.Errorf("%s: imports %s: %s", s.path, path, rule.why)
				}
			}
		}
	}
}

// quoted finds the names of modules in docs/dependencies.md.
var quoted = regexp.MustCompile("`([a-z0-9.-]+\\.[a-z]+/[^`]*)`")

func TestDependenciesAreExplained(t *testing.T) {
	var explained []string
	for _, found := range quoted.FindAllStringSubmatch(read(t, "docs/dependencies.md"), -1) {
		explained = append(explained, found[1])
	}
	used := map[string]bool{}
	for _, s := range sources(t) {
		for _, path := range s.imports() {
			if !foreign(path) {
				continue
			}
			at := slices.IndexFunc(explained, func(dep string) bool { return under(path, dep) })
			if at < 0 {
				t.Errorf("%s: imports %s, of which docs/dependencies.md says nothing", s.path, path)
				continue
			}
			used[explained[at]] = true
		}
	}
	for _, dep := range explained {
		if !used[dep] {
			t.Errorf("docs/dependencies.md explains %s, which nothing imports", dep)
		}
	}
}

// foreign says whether an import path is of another module.
func foreign(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".") && !under(path, module)
}

// under says whether an import path is prefix or below it.
func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")
}

// within says whether a directory is user, or below a user that ends in "/".
func within(dir, user string) bool {
	return dir == user || strings.HasSuffix(user, "/") && strings.HasPrefix(dir, user)
}

// unlinked is what programs must not contain, however it gets there.
var unlinked = map[string][]string{
	"cmd/ocicatd": {"go.etcd.io/etcd/server", module + "/internal/cli", module + "/internal/lab"},
	"cmd/ocicat":  {"go.etcd.io/etcd/server"},
	"cmd/ocicat-cni": {
		"go.etcd.io", "google.golang.org", "net/http", "crypto/tls", "github.com/vishvananda", "github.com/spf13", module + "/internal/store",
	},
	"cmd/ocicat-etcd": {module + "/internal/agent", module + "/internal/kernel", "github.com/vishvananda"},
}

func TestProgramsLinkNoMoreThanTheyNeed(t *testing.T) {
	for program, banned := range unlinked {
		out, err := exec.Command("go", "list", "-tags", "grpcnotrace", "-deps", "./"+program).CombinedOutput()
		if err != nil {
			t.Errorf("list dependencies of %s: %v\n%s", program, err, out)
			continue
		}
		for _, path := range strings.Fields(string(out)) {
			for _, prefix := range banned {
				if under(path, prefix) {
					t.Errorf("%s links %s", program, path)
				}
			}
		}
	}
}

// oldAddresses are the packages where a library makes net.IP unavoidable.
var oldAddresses = []string{"internal/kernel", "internal/nstest", "internal/lab", "internal/probe", "internal/netns", "bench/netlinkfloor"}

func TestAddressesAreNetip(t *testing.T) {
	old := []string{"net.IP", "net.IPNet", "net.IPMask", "net.ParseIP", "net.ParseCIDR", "net.IPv4", "net.CIDRMask"}
	for _, s := range sources(t) {
		if slices.Contains(oldAddresses, s.dir()) || !slices.Contains(s.imports(), "net") {
			continue
		}
		for _, name := range selectors(s) {
			if slices.Contains(old, name) {
				t.Errorf("%s: %s: addresses are net/netip outside the packages that talk to the kernel", s.path, name)
			}
		}
	}
}
