#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# images.sh: the container images of a cluster, built from directories: nothing can or need be pulled.
set -euo pipefail
. "$(dirname "$0")/env.sh"
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT
add() { # ROOT FILE [DEST]: copy a program with the libraries it loads
  install -D "$2" "$1${3:-$2}"
  { ldd "$2" || true; } 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*' | while read -r l; do [ -e "$1$l" ] || install -D "$(readlink -f "$l")" "$1$l"; done
}
base() { # ROOT: a file system with Debian's static busybox.
  local a
  mkdir -p "$1"/{bin,sbin,etc,tmp,usr/bin,usr/sbin,usr/local/bin,var/run,root,home,dev,proc,sys,uploads}; chmod 1777 "$1/tmp"
  cp /bin/busybox "$1/bin/"; for a in $(busybox --list); do [ "$a" = busybox ] || ln -s busybox "$1/bin/$a"; done
  printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534:nobody:/:/bin/false user-defined-in-image:x:1000:1000::/home:/bin/sh >"$1/etc/passwd"
  printf '%s\n' root:x:0: nogroup:x:65534: group-defined-in-image:x:50000:user-defined-in-image >"$1/etc/group"
  printf 'hosts: files dns\n' >"$1/etc/nsswitch.conf"
}
mkdir -p "$T/pause"; cp "$BIN/pause" "$T/pause/"
mkimg -o "$IMG/pause.tar" -entrypoint /pause "$T/pause" registry.k8s.io/pause:3.10.1 registry.k8s.io/pause:3.10.2

base "$T/busybox"
mkimg -o "$IMG/busybox.tar" -cmd sh "$T/busybox" docker.io/library/busybox:latest registry.k8s.io/e2e-test-images/busybox:1.37.0-2

mkdir -p "$T/coredns"; cp "$BIN/coredns" "$T/coredns/"
mkimg -o "$IMG/coredns.tar" -entrypoint /coredns "$T/coredns" registry.k8s.io/coredns/coredns:v1.15.0

# The reference CNI plugins as an image, for the installer in manifests/cni-daemonset.yaml.
base "$T/cni"; for p in loopback ptp host-local portmap; do add "$T/cni" /usr/lib/cni/$p /plugins/$p; done
mkimg -o "$IMG/cni-reference.tar" -cmd sh "$T/cni" ocicat.test/cni-reference:latest

# agnhost, the image most e2e tests use: the Go program, and the few C programs the tests call by name.
a=$T/agnhost; base "$a"
cp "$BIN/agnhost" "$BIN/coredns" "$a/"; ln -s agnhost "$a/agnhost-2"
rm "$a"/bin/{sh,nc,nslookup,wget} # "wget -T" of Debian's busybox 1.35 crashes
add "$a" /bin/dash /bin/sh; add "$a" /bin/bash; add "$a" /bin/nc.openbsd /bin/nc
for p in wget curl dig nslookup getent; do add "$a" /usr/bin/$p; done
install -m 644 "$(cd "$HERE" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)"/test/images/agnhost/porter/localhost.{crt,key} "$a/"
mkimg -o "$IMG/agnhost.tar" -entrypoint /agnhost -cmd pause "$a" registry.k8s.io/e2e-test-images/agnhost:{2.66.1,2.55}
mkimg -o "$IMG/dns-testing.tar" "$a" registry.k8s.io/e2e-test-images/glibc-dns-testing:2.1.1
