#!/usr/bin/env bash
# setup.sh [demo|demo-identity]: installs what building, testing and the
# demonstrations need and the machine does not have, from Debian's or Ubuntu's
# packages. With demo or demo-identity only what that demonstration needs: no
# database, and containers or software TPMs only where they are shown. Says what it
# does; does nothing when all is there.
set -euo pipefail

# Debian leaves these out of the PATH of all but root.
PATH=$PATH:/usr/sbin:/sbin

# command:package
base=(
  git:git
)
tpm=(
  swtpm:swtpm
  swtpm_setup:swtpm-tools
  certtool:gnutls-bin
  openssl:openssl
)
vm=(
  gocryptfs:gocryptfs
  fusermount3:fuse3
  podman:podman
  runc:runc
  iptables:iptables
  ip:iproute2
  ssh:openssh-client
)
all=(
  python3:python3
  tpm2_create:tpm2-tools
  gpsd:gpsd
  gpsfake:gpsd-clients
  gcc:gcc
  node:nodejs
  npm:npm
)
case ${1:-} in
  demo) needs=("${base[@]}" "${tpm[@]}") ;;
  demo-identity) needs=("${base[@]}" "${vm[@]}") ;;
  '') needs=("${base[@]}" "${tpm[@]}" "${vm[@]}" "${all[@]}") ;;
  *)
    echo "setup: '$1' is none of: demo, demo-identity" >&2
    exit 2
    ;;
esac

missing=()
for need in "${needs[@]}"; do
  command -v "${need%%:*}" >/dev/null 2>&1 || missing+=("${need##*:}")
done
if [ "${1:-}" != demo ]; then
  # Podman's networks; these are not in PATH, or not under Debian's names.
  for helper in netavark aardvark-dns; do
    if [ ! -x "/usr/lib/podman/$helper" ] && [ ! -x "/usr/libexec/podman/$helper" ]; then missing+=("$helper"); fi
  done
fi
if [ -z "${1:-}" ]; then
  # The race detector links against libc.
  if [ ! -e /usr/include/stdlib.h ]; then missing+=(libc6-dev); fi
  # Tests of the registry's store start servers of their own. Debian keeps initdb
  # out of PATH.
  if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null 2>&1; then
    missing+=(postgresql)
  fi
fi

if ! command -v go >/dev/null 2>&1; then
  echo "setup: go is not installed. Install Go 1.26 or newer and put it on PATH." >&2
  exit 1
fi

if [ "${#missing[@]}" -eq 0 ]; then
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "setup: missing: ${missing[*]}. There is no apt-get here: install them by hand, then run this again." >&2
  exit 1
fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null 2>&1; then
    echo "setup: missing: ${missing[*]}. Run 'apt-get install ${missing[*]}' as root, then run this again." >&2
    exit 1
  fi
  sudo=(sudo)
fi

echo "setup: installing ${missing[*]} with ${sudo[*]:-} apt-get"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
  if ! "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1; then
    cat "$log" >&2
    echo "setup: '$*' failed; the reason stands above." >&2
    exit 1
  fi
}
run apt-get update
run apt-get install -y --no-install-recommends "${missing[@]}"
