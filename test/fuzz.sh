#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs every fuzz target for the given time, 20s by default.
set -u

time=${1:-20s}
passed=0
failed=0
targets=$(grep -rho --include='*_test.go' --exclude-dir=.git -H '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func /:/' | sort)
for target in $targets; do
	dir=$(dirname "${target%%:*}")
	name=${target##*:}
	echo "fuzz: $dir $name"
	if timeout -k 10 300 go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$dir"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "fuzz: $dir $name FAILED"
	fi
done
echo "fuzz: $passed passed, $failed failed"
[ "$passed" -gt 0 ] && [ "$failed" -eq 0 ]
