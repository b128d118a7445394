#!/usr/bin/env bash
# The one environment in which cargo runs here.
#
#   scripts/env.sh                           print it as `export` lines (compiles RocksDB if it is missing)
#   scripts/env.sh COMMAND...                run COMMAND in it       (compiles RocksDB if it is missing)
#   scripts/env.sh --no-archive COMMAND...   the same for commands that do not link (check, clippy, doc)
#
# ROCKSDB_LIB_DIR must be equal in every invocation: librocksdb-sys, and all that uses it, is built anew whenever
# it changes. ROCKSDB_STATIC stays unset on purpose: with it each target folder would carry its own copy of the
# archive, and cargo would need the archive before it compiles the first crate above it. Without it the folder is
# searched when a binary is linked; as only an archive lies there, the link is static all the same. That leans on
# the pinned toolchain's linker (lld), which resolves archives in any order.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${LARDER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/larder}
# rustup's cargo, also in a shell that has not read its profile since; then what setup.sh installed.
path="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:$cache/tools/bin"
# setup.sh chooses another name of the same compiler where the pinned one cannot be fetched.
toolchain=
if [ -z "${RUSTUP_TOOLCHAIN:-}" ] && [ -f "$cache/toolchain" ]; then
    toolchain=$(cat "$cache/toolchain")
fi

export PATH="$path"
[ -z "$toolchain" ] || export RUSTUP_TOOLCHAIN="$toolchain"
archive=
if [ "${1:-}" = --no-archive ]; then
    archive=--path
    shift
fi
dir=$("$root/scripts/rocksdb.sh" $archive)

if [ $# -eq 0 ]; then
    printf 'export ROCKSDB_LIB_DIR=%q\n' "$dir"
    # shellcheck disable=SC2016 # the reading shell expands it
    printf 'export PATH="$PATH":%q\n' "${CARGO_HOME:-$HOME/.cargo}/bin:$cache/tools/bin"
    [ -z "$toolchain" ] || printf 'export RUSTUP_TOOLCHAIN=%q\n' "$toolchain"
    echo 'unset ROCKSDB_STATIC ROCKSDB_COMPILE'
    exit 0
fi

export ROCKSDB_LIB_DIR="$dir"
# make's job server is not for cargo, which would warn of its closed descriptors.
unset ROCKSDB_STATIC ROCKSDB_COMPILE MAKEFLAGS MFLAGS MAKELEVEL
exec "$@"
