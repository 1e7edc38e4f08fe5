# SPDX-License-Identifier: Apache-2.0

# Few targets, each a command one can type. "make help" lists them.

export CGO_ENABLED := 0
# The build and the tests share one build cache only with the same flags.
export GOFLAGS := -trimpath -tags=grpcnotrace $(GOFLAGS)

PREFIX ?= /usr/local
FUZZTIME ?= 20s

# Programs know their version from git, where there is git.
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)

K8S_CI := ^(TestInstall|TestArticle|TestRollingUpdate|TestGranularChecks)$$

# Namespaces need root, the build does not.
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)

.PHONY: help build demo test test-k8s test-k8s-ci test-chart chaos chaos-ci bench bench-check lint fuzz race install manifest image clean

help:           ## list the targets
	@sed -n 's/^\([a-z0-9-]*\): .*## /\1	/p' Makefile | expand -t 13

build:          ## build the programs into bin/
	@command -v go >/dev/null || { echo "make: Go is missing: install Go 1.26 or newer, see https://go.dev/doc/install" >&2; exit 1; }
	go build -buildvcs=$(VCS) -ldflags "-s -w" -o bin/ ./cmd/...

demo: build     ## the article's cluster on this machine, walked and compared (root)
	$(SUDO) bin/ocicat lab demo

test:           ## all tests; as root it installs what they need
	sh test/setup.sh
	go run ./test/count -again -except '/test/(chaos/.|kubernetes)' ./...

test-k8s:       ## the tests in real Kubernetes clusters, which are compiled first (root, hours)
	test/kubernetes/lab/cluster build
	go run ./test/count -timeout 3h -limit 6h ./test/kubernetes/...

test-k8s-ci:    ## those of them that fit into CI: install, the article, upgrade, upstream's Granular Checks (root)
	test/kubernetes/lab/cluster build
	go run ./test/count -again -timeout 12m -limit 24m -run '$(K8S_CI)' ./test/kubernetes

chaos:          ## the reliability tests in full, write docs/reliability.md (root, hours)
	sh test/setup.sh
	go run ./test/chaos/report -full

chaos-ci:       ## the reliability tests in numbers that fit into CI (root)
	sh test/setup.sh
	go run ./test/chaos/report -limit 20m

race:           ## the tests of concurrent packages with the race detector (needs gcc)
	CGO_ENABLED=1 go run ./test/count -race $$(sh test/race.sh)

lint:           ## gofmt, go vet, staticcheck, and the house rules
	sh test/lint.sh

fuzz:           ## every fuzz target for FUZZTIME
	sh test/fuzz.sh $(FUZZTIME)

bench:          ## measure beside peers and the kernel's floor, write bench/RESULTS.md (root)
	sh test/setup.sh
	go run ./bench

bench-check:    ## fail if a ratio got worse than the recorded one (root)
	sh test/setup.sh
	go run ./bench -check

install: build  ## install the programs and their completions below PREFIX
	sh test/install.sh "$(DESTDIR)$(PREFIX)"

test-chart:     ## the Helm chart: its schema, its rights, and that deploy/ocicat.yaml is what it renders
	go -C tools/chart test -count=1 ./...

manifest:       ## render the Helm chart into deploy/ocicat.yaml, and its rights into docs/security.md
	go -C tools/chart run .

image:          ## build the container image into dist/image, for amd64 and arm64
	go -C tools/image run . $(IMAGEFLAGS)

clean:          ## remove what the build made
	rm -rf bin dist
