#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs every fuzz target for the given time, 20s by default.
set -u

time=${1:-20s}
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

# fuzz DIR TARGET. At the end of its time go test sometimes reports nothing but
# that the time is over as a failure (golang/go#75804): it found nothing.
# Making inputs small, by default for up to a minute each, would eat the time.
fuzz() {
	timeout -k 10 300 go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 1s "$1" >"$log" 2>&1
	status=$?
	cat "$log"
	[ $status -eq 0 ] || [ "$(sed -n '/^--- FAIL: /,/^FAIL$/p' "$log" | sed 1d | head -n 1)" = "    context deadline exceeded" ]
}
passed=0
failed=0
targets=$(grep -rho --include='*_test.go' --exclude-dir=.git -H '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func /:/' | sort)
for target in $targets; do
	dir=$(dirname "${target%%:*}")
	name=${target##*:}
	echo "fuzz: $dir $name"
	if fuzz "$dir" "$name"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "fuzz: $dir $name FAILED"
	fi
done
echo "fuzz: $passed passed, $failed failed"
[ "$passed" -gt 0 ] && [ "$failed" -eq 0 ]
