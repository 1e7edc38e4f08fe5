#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh: everything a cluster runs, from Go modules and Debian packages, into $OCICAT_K8S/bin and $OCICAT_K8S/img. What is
# up to date stays.
set -euo pipefail
. "$(dirname "$0")/env.sh"
"$HERE/setup.sh"
mkdir -p "$BIN/go" "$IMG"
exec 9>"$OCICAT_K8S/lock"; flock 9 # one build at a time
cd "$HERE"
unset GOFLAGS; export CGO_ENABLED=0 # flags are part of the build cache's keys
V=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
P=k8s.io/component-base/version
LD="-s -w -X $P.gitVersion=$V -X $P.gitMajor=1 -X $P.gitMinor=$(cut -d. -f2 <<<"$V") -X $P.gitTreeState=clean -X $P.gitCommit=module -X $P.buildDate=1970-01-01T00:00:00Z"
step() { local t=$SECONDS; "$@"; [ $((SECONDS - t)) -lt 2 ] || echo "$((SECONDS - t))s ${*: -1}"; }

step go build -trimpath -buildvcs=false -ldflags "$LD" -o "$BIN/kubernetes" ./kubernetes
for c in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl etcd; do ln -sf kubernetes "$BIN/$c"; done
for c in containerd containerd-shim-runc-v2 ctr; do # small in the shared parts: the packages are compiled once
  step go build -trimpath -ldflags '-s -w' -tags 'no_btrfs no_devmapper no_zfs no_aufs' -o "$BIN/go/$c" github.com/containerd/containerd/v2/cmd/$c
done
step go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$BIN/mkimg" ./mkimg
step go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$BIN/pause" ./pause
step go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$BIN/coredns" ./coredns
step go build -trimpath -ldflags "$LD" -o "$BIN/agnhost" k8s.io/kubernetes/test/images/agnhost
e2e=$(cat "$HERE"/go.sum "$HERE"/e2e/*.go | sha256sum) # "go test -c" links always
if [ "$e2e" != "$(cat "$BIN/.e2e" 2>/dev/null)" ] || [ ! -x "$BIN/e2e.test" ]; then
  step go test -c -trimpath -buildvcs=false -ldflags "$LD" -o "$BIN/e2e.test" ./e2e; echo "$e2e" >"$BIN/.e2e"
fi
for f in "$BIN"/{mkimg,pause,coredns,agnhost} "$HERE/images.sh"; do
  if [ ! -e "$IMG/.done" ] || [ "$f" -nt "$IMG/.done" ]; then step "$HERE/images.sh"; touch "$IMG/.done"; break; fi
done
