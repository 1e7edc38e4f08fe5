#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# node-init.sh NODE: process 1 of a node. It already has its own network, mount, pid, uts, ipc and cgroup namespaces; it builds the
# node's root (an overlay on this machine's), then runs containerd, kubelet and kube-proxy in it, restarting what dies.
set -eu
. "$(dirname "$0")/env.sh"
n=$1 N=$STATE/nodes/$1 R=$STATE/nodes/$1/root
hostname "$n"

# Root: whatever a DaemonSet writes through hostPath stays on this node. Two directories cannot lie on an overlay: containerd's, whose
# snapshots are overlays themselves, and the kubelet's, whose file system the kubelet measures.
mkdir -p "$N"/{upper,work,root,containerd,kubelet,log}
mount -t overlay overlay -o "lowerdir=/,upperdir=$N/upper,workdir=$N/work" "$R"
if [ ! -e "$R/etc/kubernetes/ocicat-lab" ]; then # a new node: nothing of what this machine itself has of container software and networks
  rm -rf "$R"/etc/{cni,kubernetes,containerd} "$R"/opt/cni "$R"/var/lib/{cni,kubelet,containerd,ocicat} "$R"/var/log/{pods,containers}
  mkdir -p "$R"/etc/{cni/net.d,kubernetes,containerd} "$R"/opt/cni/bin "$R"/var/lib/{cni,kubelet,containerd,ocicat} "$R"/var/log/{pods,containers}
  tr -d - </proc/sys/kernel/random/uuid >"$R/etc/machine-id"
  touch "$R/etc/kubernetes/ocicat-lab"
fi
mount --bind "$N/containerd" "$R/var/lib/containerd"
mount --bind "$N/kubelet" "$R/var/lib/kubelet"
mkdir -p "$STATE/img" "$R$BIN" "$R$IMG" "$R$STATE/img" "$R$N/log"
for d in "$BIN" "$IMG" "$STATE/img" "$N/log"; do mount --bind "$d" "$R$d"; done
mount --rbind /dev "$R/dev"
mount -t tmpfs -o mode=755 tmpfs "$R/run"; mkdir -p "$R"/run/{lock,netns}
mount -t proc proc "$R/proc"
mount -t sysfs sysfs "$R/sys"
mount -t bpf bpf "$R/sys/fs/bpf" 2>/dev/null || true
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then # version 2 only
  mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"; C=$R/sys/fs/cgroup; mkdir "$C/init"
  for p in $(cat "$C/cgroup.procs"); do [ "$p" = 0 ] || echo "$p" >"$C/init/cgroup.procs" || true; done
  until echo '+cpu +cpuset +memory +pids +io' >"$C/cgroup.subtree_control"; do sleep 0.1; done # until "cluster" has moved our parent out
else
  mount -t tmpfs -o mode=755 tmpfs "$R/sys/fs/cgroup"
  while IFS=: read -r _ c _; do
    case $c in '') d=unified o='-t cgroup2';; name=*) d=${c#name=} o="-t cgroup -o none,$c";; *) d=$c o="-t cgroup -o $c";; esac
    mkdir "$R/sys/fs/cgroup/$d"; mount $o cgroup "$R/sys/fs/cgroup/$d"
  done </proc/self/cgroup
fi
printf '127.0.0.1 localhost\n' >"$R/etc/hosts"; for m in "${NODES[@]}"; do echo "${IP[$m]} $m" >>"$R/etc/hosts"; done
rm -f "$R/etc/resolv.conf"; : >"$R/etc/resolv.conf" # no name server outside: CoreDNS answers for the cluster only
echo "$n" >"$R/etc/hostname"
cp "$PKI/ca.crt" "$PKI/kube-proxy.conf" "$R/etc/kubernetes/"
for s in crt key conf; do cp "$PKI/kubelet-$n.$s" "$R/etc/kubernetes/kubelet.$s"; done
if [ "$CNI" = ptp ]; then
  cp /usr/lib/cni/* "$R/opt/cni/bin/"
  cat >"$R/etc/cni/net.d/10-ptp.conflist" <<J
{"cniVersion": "1.0.0", "name": "ptp", "plugins": [
  {"type": "ptp", "mtu": 1500, "ipam": {"type": "host-local", "ranges": [[{"subnet": "${CIDR[$n]}"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni-ptp"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
fi
cd "$R"; mkdir -p mnt; pivot_root . mnt; cd /; umount -l /mnt

# The kubelet writes these, and they belong to the machine, not to a namespace: give it files of its own to write.
mkdir -p /run/sysctl
for s in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  f=/run/sysctl/$(tr / . <<<"${s%=*}"); echo "${s#*=}" >"$f"; mount --bind "$f" "/proc/sys/${s%=*}"
done
mount --make-rshared / # for volumes with mountPropagation, such as /run/netns

if [ "$CTRD" = go ]; then
  cat >/etc/containerd/config.toml <<T
version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10.1"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
T
else
  cat >/etc/containerd/config.toml <<T
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10.1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
T
fi
cat >/etc/kubernetes/kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /etc/kubernetes/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
clusterDNS: [$DNS]
clusterDomain: cluster.local
evictionHard: {memory.available: 50Mi, nodefs.available: "1%", nodefs.inodesFree: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 5s
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
Y
cat >/etc/kubernetes/kube-proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $PROXY
hostnameOverride: $n
clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.conf}
clusterCIDR: $PODS
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y

set +e
keep() { # NAME COMMAND...: run it, and again when it dies, as systemd would
  local name=$1; shift
  while :; do "$@" >>"$N/log/$name.log" 2>&1; echo "$(date +%T) $name ended with $?" >>"$N/log/init.log"; sleep 1; done
}
keep containerd containerd &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for t in "$IMG"/*.tar "$STATE/img"/*.tar; do # once each
  [ -e "$t" ] || continue
  s=/var/lib/containerd/.loaded-$(basename "$t")-$(stat -c %Y "$t")
  [ -e "$s" ] || { ctr -n k8s.io images import "$t" && touch "$s"; } >>"$N/log/images.log" 2>&1
done
keep kubelet kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf --hostname-override="$n" --node-ip="${IP[$n]}" &
keep kube-proxy kube-proxy --config=/etc/kubernetes/kube-proxy.yaml &
while :; do wait; sleep 1; done
