# SPDX-License-Identifier: Apache-2.0
#
# env.sh: the settings of a cluster, sourced by every script. All can be set in the environment.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OCICAT_K8S=${OCICAT_K8S:-${XDG_CACHE_HOME:-$HOME/.cache}/ocicat/kubernetes} # what is built: bin, img
export STATE=${STATE:-$OCICAT_K8S/state}                     # of the cluster that is up; gone after "down"
[ ! -e "$STATE/settings" ] || . "$STATE/settings"            # it keeps the settings it was started with
ID=${ID:-ok8s}                     # prefix of network namespaces and cgroups
NN=${NN:-2}                        # how many nodes (1..4)
NAMES=${NAMES:-k8s-master-1 k8s-node-1 k8s-node-2 k8s-node-3}
CNI=${CNI:-none}                   # none: nothing, nodes wait for a DaemonSet | ptp: Debian's reference plugins and static routes
PROXY=${PROXY:-nftables}           # kube-proxy mode: nftables | iptables
RACKS=${RACKS:-1}                  # 2: every second node is in 192.168.1.0/24, behind the router (the namespace "ext")
CTRD=${CTRD:-go}                   # containerd: go (v2, built here) | debian (1.6, from the package)
export ID NN NAMES CNI PROXY RACKS CTRD

BIN=$OCICAT_K8S/bin IMG=$OCICAT_K8S/img PKI=$STATE/pki
PODS=172.16.0.0/16 SERVICES=10.96.0.0/16 DNS=10.96.0.10
NODES=() ; declare -A IP GW MAC CIDR
MACS=(00:0c:29:b1:02:f0 00:0c:29:90:fa:e2 00:0c:29:3c:41:0d 00:0c:29:7e:15:8a)
CIDRS=(172.16.196.0/26 172.16.109.64/26 172.16.140.64/26 172.16.76.128/26) # CNI=ptp only
i=0
for n in $NAMES; do
  [ $i -lt "$NN" ] || break
  NODES+=("$n"); IP[$n]=192.168.$((i % RACKS)).$((11 + i)); GW[$n]=192.168.$((i % RACKS)).2; MAC[$n]=${MACS[$i]}; CIDR[$n]=${CIDRS[$i]}
  i=$((i + 1))
done
MASTER=${NODES[0]} API=https://192.168.0.11:6443
export PATH=$BIN:$PATH:/usr/sbin:/sbin KUBECONFIG=$STATE/kubeconfig
[ "$CTRD" != go ] || PATH=$BIN/go:$PATH
