#!/usr/bin/env bash
# bench.sh [FLAG…]: measures what proof costs; docs/performance.md explains it.
# BENCH=quick takes 3 minutes instead of 20; flags go to test/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${BENCH:-full} in
  full) ;;
  quick) set -- -quick "$@" ;;
  *)
    echo "bench: BENCH must be full or quick, not ${BENCH}" >&2
    exit 2
    ;;
esac
exec go run ./test/bench "$@"
