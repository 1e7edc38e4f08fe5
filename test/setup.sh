#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs what the tests need: as root on Debian and its relatives by apt-get,
# elsewhere it says what is missing and lets the tests go on without.
set -eu

if ! command -v go >/dev/null; then
	echo "setup: go is missing: install Go 1.26 or newer, see https://go.dev/doc/install" >&2
	[ -z "${SUDO_USER:-}" ] || echo "setup: sudo may hide it: sudo env \"PATH=\$PATH\" make test" >&2
	exit 1
fi

# program package
needs='
bird bird2
birdc bird2
tcpdump tcpdump
nft nftables
busybox busybox-static
/usr/lib/cni/ptp containernetworking-plugins
iptables iptables
ip iproute2
etcd etcd-server
strace strace
/usr/lib/frr/bgpd frr
gobgpd gobgpd
exabgp exabgp
conntrack conntrack
ping iputils-ping
git git
runc runc
containerd containerd
'

PATH=$PATH:/usr/sbin:/sbin
missing=$(echo "$needs" | while read -r program package; do
	[ -z "$program" ] || command -v "$program" >/dev/null || echo "$package"
done | sort -u | tr '\n' ' ')
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "setup: not root: tests that need $missing or namespaces are skipped; run \"sudo make test\" for all" >&2
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	echo "setup: install the equivalents of these Debian packages: $missing" >&2
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
echo "setup: installing $missing"
# BIRD is started by tests, never by the system.
if [ ! -e /usr/sbin/policy-rc.d ]; then
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod +x /usr/sbin/policy-rc.d
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
# shellcheck disable=SC2086 # several packages
install() { apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $missing >/dev/null; }
install || { apt-get update -qq && install; }
