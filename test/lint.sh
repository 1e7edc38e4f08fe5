#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# gofmt, go vet, staticcheck and the house rules. All run, also after one found
# something.
set -u

failed=
check() {
	name=$1
	shift
	if "$@"; then
		echo "lint: $name ok"
	else
		echo "lint: $name FAILED"
		failed="$failed $name"
	fi
}

formatted() {
	list=$(gofmt -l api bench cmd internal test tools ./*.go) && [ -z "$list" ] && return
	echo "not formatted by gofmt: $list"
	return 1
}

# The tools are modules of their own.
vet_tools() {
	for module in tools/*/; do
		[ -z "$(find "$module" -name '*.go')" ] || go -C "$module" vet ./... || return
	done
}

check gofmt formatted
check vet go vet ./...
check "vet tools" vet_tools
check staticcheck go tool -modfile=tools/go.mod staticcheck -tags grpcnotrace ./...
check house go test -count=1 .
[ -z "$failed" ]
