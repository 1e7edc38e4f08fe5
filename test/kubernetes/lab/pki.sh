#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# pki.sh: one CA, and every certificate and kubeconfig of the cluster (ECDSA P-256, ten years).
set -euo pipefail
. "$(dirname "$0")/env.sh"
[ -e "$PKI/done" ] && exit
mkdir -p "$PKI"; cd "$PKI"
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
ca() { key "$1"; openssl req -x509 -new -key "$1.key" -subj "/CN=$1" -days 3650 -out "$1.crt"; }
sign() { # NAME SUBJECT [SUBJECTALTNAMES] [CA]
  key "$1"; openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  { echo extendedKeyUsage=serverAuth,clientAuth; [ -z "${3:-}" ] || echo "subjectAltName=$3"; } >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA "${4:-ca}.crt" -CAkey "${4:-ca}.key" -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
}
kubeconfig() { # NAME > FILE
  cat <<Y
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "$API", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: lab, context: {cluster: lab, user: $1}}]
current-context: lab
Y
}
ca ca; ca front-proxy-ca
sign apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:10.96.0.1,IP:127.0.0.1,IP:192.168.0.11"
sign apiserver-kubelet-client /O=system:masters/CN=apiserver-kubelet-client
sign front-proxy-client /CN=front-proxy-client "" front-proxy-ca
sign admin /O=system:masters/CN=admin; kubeconfig admin >"$KUBECONFIG"
for c in kube-controller-manager kube-scheduler kube-proxy; do sign $c /CN=system:$c; kubeconfig $c >$c.conf; done
for n in "${NODES[@]}"; do
  sign "kubelet-$n" "/O=system:nodes/CN=system:node:$n" "DNS:$n,IP:${IP[$n]}"; kubeconfig "kubelet-$n" >"kubelet-$n.conf"
done
openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
rm -f ./*.csr ./*.ext; touch done
