#!/usr/bin/env bash
# ocb.sh MANIFEST OUTPUT: builds a collector from an ocb manifest with the
# pinned builder, statically linked.
set -euo pipefail
cd "$(dirname "$0")/.."
manifest=$1 output=$2
mkdir -p "build/$(basename "$output")" "$(dirname "$output")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! CGO_ENABLED=0 go tool -modfile=internal/tools/go.mod builder --config "$manifest" >"$log" 2>&1; then
  cat "$log" >&2
  echo "ocb: building from $manifest failed; the reason stands above." >&2
  exit 1
fi
mv "build/$(basename "$output")/$(basename "$output")" "$output"
# The builder leaves the binary's time stamp to the linker's cache.
touch "$output"
