#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# setup.sh: the Debian packages a cluster needs.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=$(while read -r file package; do command -v "$file" >/dev/null || echo "$package"; done <<'N' | sort -u | tr '\n' ' '
busybox busybox-static
/usr/lib/cni/ptp containernetworking-plugins
conntrack conntrack
containerd containerd
curl curl
dig bind9-dnsutils
ip iproute2
iptables iptables
nc.openbsd netcat-openbsd
nft nftables
openssl openssl
runc runc
wget wget
N
)
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "setup: install the equivalents of these Debian packages: $missing" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
echo "setup: installing $missing"
# shellcheck disable=SC2086 # several packages
install() { apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $missing >/dev/null; }
if [ ! -e /usr/sbin/policy-rc.d ]; then # containerd is started by clusters, never by the system
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
install || { apt-get update -qq && install; }
