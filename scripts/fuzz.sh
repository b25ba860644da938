#!/usr/bin/env bash
# fuzz.sh TIME: runs every fuzz target of the module for TIME. One that fails
# does not keep the others from running; it is named at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
output=$(mktemp)
trap 'rm -f "$output"' EXIT

# run DIR TARGET fuzzes one target. Before Go 1.27 the end of the time may itself be
# taken for a failure (go.dev/issue/75804): without a failing input, and with
# nothing else to complain about, it is none.
run() {
  go test "./$1" -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 20x </dev/null 2>&1 | tee "$output" && return
  if grep -qx '    context deadline exceeded' "$output" && ! grep -qE 'Failing input|panic:|fuzz_test\.go:[0-9]+' "$output"; then
    echo "fuzz: the time was up, and that alone was called a failure"
    return
  fi
  return 1
}

targets=$(grep -roE --include='*_test.go' '^func Fuzz[A-Z][A-Za-z0-9]*' cmd extension identityd internal processor receiver registryd | sort)
count=$(wc -l <<<"$targets") number=0 failed=()
while IFS=: read -r file function; do
  dir=$(dirname "$file") target=${function#func }
  number=$((number + 1))
  echo "fuzz: $number of $count: $dir $target for $time"
  run "$dir" "$target" || failed+=("$dir $target")
done <<<"$targets"
if ((${#failed[@]} > 0)); then
  echo "fuzz: ${#failed[@]} of $count failed; the inputs that did it are in testdata/fuzz of their packages:" >&2
  printf '  %s\n' "${failed[@]}" >&2
  exit 1
fi
