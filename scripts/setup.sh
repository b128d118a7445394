#!/usr/bin/env bash
# Installs what the build (and with `test` the suite) needs and does not find; changes nothing else.
#
#   scripts/setup.sh build   compiler, libclang, pinned Rust toolchain
#   scripts/setup.sh test    the same, then network tools, Node.js and cargo-nextest
#   scripts/setup.sh bench   what `build` needs, then etcd, nginx, PostgreSQL, load generators and strace, none of them as a service
#
# Asks the machine what is there instead of keeping a list of what was done, so it may run before every build;
# with nothing to do it takes well under a second.
set -euo pipefail

what=${1:-build}
case $what in build | test | bench) ;; *) echo "usage: scripts/setup.sh build|test|bench" >&2; exit 2 ;; esac

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
cache=${LARDER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/larder}
# The release that is known to build with the pinned toolchain; any 0.9 that is already there will do.
nextest_version=0.9.143
node_major_min=18
export PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin:$cache/tools/bin"

say() { echo "setup: $*" >&2; }
die() { say "$@"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# --- Debian packages -------------------------------------------------------------------------------------------

missing=()
need() { # need PACKAGE COMMAND: the package unless the command is there
    has "$2" || missing+=("$1")
}

# bindgen opens libclang.so at run time and needs clang's own headers (stddef.h) beside it.
has_libclang() {
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null || return 1
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null || compgen -G '/usr/lib/clang/*/include/stddef.h' >/dev/null
}

node_is_old() {
    local major
    major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\)\..*/\1/p')
    [ -z "$major" ] || [ "$major" -lt "$node_major_min" ]
}

need gcc cc
need g++ c++
need binutils ar
need make make
need util-linux flock
has_libclang || missing+=(libclang-dev)
if [ "$what" = test ]; then
    need iproute2 ip
    need iptables iptables
    need procps ps
    need curl curl
    need nodejs node
    need npm npm
fi
if [ "$what" = bench ]; then
    need etcd-server etcd
    need nginx-light nginx
    need nghttp2-client h2load
    need wrk wrk
    need strace strace
    need jq jq
    need curl curl
    need procps pgrep
    need postgresql psql
fi

if [ ${#missing[@]} -gt 0 ]; then
    list=${missing[*]}
    has apt-get || die "missing: $list. This script installs packages on Debian and its kin only; install them by hand"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        has sudo || die "missing: $list. Neither root nor sudo here; as root run: apt-get install $list"
        as_root=(sudo)
        # Without a terminal nobody can type the password: better a clear word than a hang.
        [ -t 0 ] || as_root=(sudo -n)
        "${as_root[@]}" true || die "missing: $list. sudo refused; as root run: apt-get install $list"
    fi
    say "installing $list"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # Debian starts what it installs; a benchmark starts etcd and nginx itself, on ports of its own.
    if [ "$what" = bench ] && ! [ -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f "$log"; "${as_root[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee /usr/sbin/policy-rc.d >/dev/null
        "${as_root[@]}" chmod +x /usr/sbin/policy-rc.d
    fi
    # A stale or unreachable list of some other source is no reason to stop; the install itself decides.
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 \
        || say "apt-get update complained, going on"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "${missing[@]}" </dev/null >>"$log" 2>&1 \
        || { cat "$log" >&2; die "apt-get could not install: $list"; }
fi
if [ "$what" = test ] && node_is_old; then
    die "the suite needs Node.js $node_major_min or newer, found: $(node --version 2>/dev/null || echo none)"
fi

# --- Rust ------------------------------------------------------------------------------------------------------

has cargo || die "cargo not found: install rustup first (Debian: apt-get install rustup, or see rustup's own page)"
if has rustup; then
    channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
    usable() { RUSTUP_TOOLCHAIN=$1 rustc --version 2>/dev/null | grep -q "^rustc $channel "; }
    if usable "${RUSTUP_TOOLCHAIN:-$channel}"; then
        rm -f "$cache/toolchain"
    elif ! [ -f "$cache/toolchain" ] || ! usable "$(cat "$cache/toolchain")"; then
        say "installing Rust $channel"
        if ! rustup toolchain install "$channel" --profile minimal -c rustfmt -c clippy --no-self-update >&2; then
            # Without a way to fetch it: another name of the very same compiler will do, nothing else will.
            found=
            while read -r name _; do
                if usable "$name"; then found=$name; break; fi
            done < <(rustup toolchain list)
            [ -n "$found" ] || die "Rust $channel is neither installed nor to be fetched"
            say "Rust $channel cannot be fetched; '$found' is the same version and is used instead"
            mkdir -p "$cache"
            echo "$found" > "$cache/toolchain"
        fi
    fi
fi

if [ "$what" = test ] && ! has cargo-nextest; then
    say "installing cargo-nextest $nextest_version; this takes about 5 minutes, once"
    mkdir -p "$cache/tools"
    (
        unset CARGO_TARGET_DIR ROCKSDB_LIB_DIR
        [ ! -f "$cache/toolchain" ] || export RUSTUP_TOOLCHAIN=${RUSTUP_TOOLCHAIN:-$(cat "$cache/toolchain")}
        # Without the self-updater and what it links.
        cargo install cargo-nextest --version "$nextest_version" --locked --quiet --root "$cache/tools" \
            --no-default-features --features default-no-update >&2
    ) || die "cargo-nextest $nextest_version could not be installed"
fi
