#!/usr/bin/env bash
# Runs the generators and fails when a generated file was not up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
sums() {
  find . \( -path ./build -o -path ./.git \) -prune -o -type f \
    \( -name 'generated_*' -o -name documentation.md -o -path '*/internal/metadata/*' \) \
    -exec sha256sum {} + | LC_ALL=C sort -k2
}
before=$(sums)
go generate ./...
after=$(sums)
if [ "$before" != "$after" ]; then
  echo "generated files were out of date; commit what 'make generate' changed:" >&2
  diff <(echo "$before") <(echo "$after") | awk '{print "  " $NF}' | sort -u >&2 || true
  exit 1
fi
