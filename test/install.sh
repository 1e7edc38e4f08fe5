#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs the programs in bin/, the plugin of kubectl and the shell completions
# below a prefix.
set -eu

prefix=$1
install -d "$prefix/bin" "$prefix/share/bash-completion/completions" "$prefix/share/zsh/site-functions" \
	"$prefix/share/fish/vendor_completions.d"
install -m 755 bin/ocicat bin/ocicatd bin/ocicat-cni bin/ocicat-etcd "$prefix/bin/"
ln -sf ocicat "$prefix/bin/kubectl-ocicat" # kubectl ocicat
printf '#!/bin/sh\nexec kubectl-ocicat __complete "$@"\n' >"$prefix/bin/kubectl_complete-ocicat"
chmod 755 "$prefix/bin/kubectl_complete-ocicat"
bin/ocicat completion bash >"$prefix/share/bash-completion/completions/ocicat"
bin/ocicat completion zsh >"$prefix/share/zsh/site-functions/_ocicat"
bin/ocicat completion fish >"$prefix/share/fish/vendor_completions.d/ocicat.fish"
