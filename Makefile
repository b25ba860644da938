# make help lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

GO        ?= go
TOOLS     := $(GO) tool -modfile=$(CURDIR)/internal/tools/go.mod
LINTTOOLS := $(GO) tool -modfile=$(CURDIR)/internal/tools/lint/go.mod
# What of identityd needs neither podman nor mounts; the rest is tested by make test.
IDENTITYD := $(addprefix ./identityd/internal/,attest/... config/... measure/... metrics/... proxy/... reason/... refusal/... registrar/... request/... server/... state/...)
UNIT      := ./cmd/... ./extension/... ./internal/... ./processor/... ./receiver/... ./registryd/... $(IDENTITYD)
# The same for check and test, so that what check has run need not run again.
TESTFLAGS := -race -timeout 40m
FUZZTIME  ?= 30s
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# What a binary is made of. The generated sources under build/ are left out.
SOURCES := $(shell find . -path ./build -prune -o -path ./internal/tools -prune -o -name '*.go' ! -name '*_test.go' -print) go.mod go.sum
# What is embedded into the daemons.
EMBEDDED := registryd/internal/server/openapi.yaml identityd/internal/server/openapi.yaml $(wildcard registryd/internal/store/migrations/* registryd/internal/store/migrations/*/* internal/tdx/*.pem)

export CGO_ENABLED ?= 0

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what the machine lacks (apt)
	@scripts/setup.sh

.PHONY: setup-demo
setup-demo:
	@scripts/setup.sh demo

.PHONY: setup-demo-identity
setup-demo-identity:
	@scripts/setup.sh demo-identity

.PHONY: build
build: bin/otelcol-telemark bin/telemark bin/registryd bin/identityd ## build the collector, the command line and the daemons

.PHONY: gateway
gateway: bin/otelcol-stock ## build the stock gateway that tests and demo use

.PHONY: rebuild
rebuild: bin/otelcol-rebuild ## build the collector of examples/ocb-rebuild

bin/otelcol-telemark: builder-config.yaml $(SOURCES)
	@echo "building $@ (the first time takes some minutes)"
	@scripts/ocb.sh builder-config.yaml $@

bin/otelcol-stock: test/e2e/gateway-builder.yaml
	@echo "building $@"
	@scripts/ocb.sh test/e2e/gateway-builder.yaml $@

bin/otelcol-rebuild: examples/ocb-rebuild/manifest.yaml $(SOURCES)
	@echo "building $@"
	@scripts/ocb.sh examples/ocb-rebuild/manifest.yaml $@

bin/telemark: $(SOURCES)
	@$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $@ ./cmd/telemark

bin/registryd: $(SOURCES) $(EMBEDDED)
	@$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $@ ./registryd

bin/identityd: $(SOURCES) $(EMBEDDED)
	@$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $@ ./identityd

.PHONY: generate
generate: ## run the code generators
	@$(GO) generate ./...

.PHONY: check
check: setup ## generators, formatting, vet, linters, unit tests with the race detector
	@scripts/generated.sh
	@out=$$($(LINTTOOLS) gofumpt -l $$(git ls-files '*.go' | grep -v '/generated_')); \
	  if [ -n "$$out" ]; then echo "not formatted (run 'make fmt'):"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(LINTTOOLS) golangci-lint run ./...
	CGO_ENABLED=1 $(GO) test $(TESTFLAGS) $(UNIT)

.PHONY: fmt
fmt: ## format the sources
	@$(LINTTOOLS) gofumpt -w $$(git ls-files '*.go' | grep -v '/generated_')

.PHONY: test
test: setup build gateway rebuild ## set up and run all tests, those with real processes too
	@scripts/validate-configs.sh
# Tests with podman wait for one another: one package of three is waiting.
	CGO_ENABLED=1 $(GO) test $(TESTFLAGS) -p 3 ./...

.PHONY: demo
demo: setup-demo build gateway ## a registry, agents that enrol, a stock gateway, a collector, attacks (KEEP=1 leaves it running)
	@$(GO) build -o bin/demo ./test/demo && bin/demo $(if $(KEEP),-keep)

.PHONY: demo-identity
demo-identity: setup-demo-identity bin/telemark bin/registryd bin/identityd ## a confidential VM from fresh to exposed: quotes, storage, container, SSH, facts (KEEP=1 leaves it running; needs root)
	@$(GO) build -o bin/demo-identity ./test/identitydemo && bin/demo-identity $(if $(KEEP),-keep)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: setup build gateway ## measure; docs/performance.md says what
	@scripts/bench.sh

.PHONY: clean
clean: ## remove what was built
	rm -rf bin build demo
