#!/usr/bin/env bash
# Holds every shipped configuration against the collector that runs it:
# overlays on top of what they belong to.
set -euo pipefail
cd "$(dirname "$0")/../configs"
ours=../bin/otelcol-telemark stock=../bin/otelcol-stock rebuild=../bin/otelcol-rebuild
validated=" "
validate() {
  local bin=$1 args=()
  shift
  for file in "$@"; do
    args+=(--config "$file")
    validated+="$file "
  done
  if ! out=$("$bin" validate "${args[@]}" 2>&1); then
    printf '%s\n' "$out" >&2
    echo "configs: $* is not valid; the reason stands above." >&2
    exit 1
  fi
}
validate "$ours" agent.yaml
validate "$ours" agent.yaml agent-registry.yaml
validate "$ours" agent.yaml agent-swtpm.yaml
validate "$ours" agent.yaml agent-swtpm-server.yaml
validate "$ours" agent.yaml agent-plaintext.yaml
validate "$ours" gateway.yaml
validate "$ours" gateway.yaml gateway-check.yaml
validate "$ours" gateway.yaml gateway-plaintext.yaml
validate "$ours" collector.yaml
validate "$ours" collector.yaml collector-plaintext.yaml
validate "$ours" collector.yaml collector-quarantine.yaml
validate "$ours" collector.yaml collector-registry.yaml
validate "$ours" collector.yaml collector-quarantine.yaml collector-registry.yaml
validate "$stock" gateway-stock.yaml
validate "$rebuild" ../examples/ocb-rebuild/config.yaml
for file in *.yaml; do
  case $validated in
    *" $file "*) ;;
    *) echo "configs: $file is validated by nobody; add it to scripts/validate-configs.sh" >&2; exit 1 ;;
  esac
done
echo "configs: all valid"
