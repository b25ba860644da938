#!/usr/bin/env bash
# fuzz.sh TIME: runs every fuzz target of the module for TIME. One that fails
# does not keep the others from running; it is named at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
targets=$(grep -roE --include='*_test.go' '^func Fuzz[A-Z][A-Za-z0-9]*' cmd extension identityd internal processor receiver registryd | sort)
count=$(wc -l <<<"$targets") number=0 failed=()
while IFS=: read -r file function; do
  dir=$(dirname "$file") target=${function#func }
  number=$((number + 1))
  echo "fuzz: $number of $count: $dir $target for $time"
  go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x </dev/null || failed+=("$dir $target")
done <<<"$targets"
if ((${#failed[@]} > 0)); then
  echo "fuzz: ${#failed[@]} of $count failed; the inputs that did it are in testdata/fuzz of their packages:" >&2
  printf '  %s\n' "${failed[@]}" >&2
  exit 1
fi
