#!/usr/bin/env bash
# Compiles RocksDB once into a static archive outside `target/` and prints the folder that holds it.
#
#   scripts/rocksdb.sh          compile the archive if it is missing, then print its folder
#   scripts/rocksdb.sh --path   print the folder only, compile nothing
#
# The archive is keyed by everything that changes its code: crate version, codecs, target CPU and compiler.
# `scripts/env.sh` exports the printed folder as ROCKSDB_LIB_DIR, so that no build profile and no clone compiles
# the C++ sources again (about 13 minutes on two cores, once).
set -euo pipefail

# Must name the version in Cargo.lock; checked below, so that headers and archive cannot drift apart.
crate_version=0.25.0
codecs='"lz4", "zstd"'
target_cpu=x86-64-v2

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${LARDER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/larder}

if [ -f "$root/Cargo.lock" ] && ! grep -A1 '^name = "rocksdb"$' "$root/Cargo.lock" | grep -q "\"$crate_version\""; then
    echo "scripts/rocksdb.sh builds rocksdb $crate_version, but Cargo.lock names another version: change crate_version" >&2
    exit 1
fi

compiler=$(${CXX:-c++} -dumpfullversion 2>/dev/null || ${CXX:-c++} -dumpversion)
key="rocksdb-$crate_version-$(echo "$codecs" | tr -cd 'a-z0-9')-$target_cpu-cxx$compiler"
out="$cache/$key"
if [ -f "$out/librocksdb.a" ] || [ "${1:-}" = --path ]; then
    echo "$out"
    exit 0
fi

echo "compiling RocksDB ($key) once; this takes 10 to 20 minutes on two cores" >&2
build="$cache/build-$key"
mkdir -p "$build/src" "$out"
exec 9>"$build/lock"
if ! flock -n 9; then
    echo "another process compiles it already: waiting" >&2
    flock 9
fi
if [ ! -f "$out/librocksdb.a" ]; then
    cat > "$build/Cargo.toml" <<TOML
[package]
name = "rocksdb-archive"
version = "0.0.0"
edition = "2024"

[dependencies]
rocksdb = { version = "=$crate_version", default-features = false, features = ["bindgen-runtime", $codecs] }

[workspace]
TOML
    echo 'fn main() {}' > "$build/src/main.rs"
    (
        # From the root of the repository, so that the pinned toolchain is used and no other need be installed.
        cd "$root"
        unset ROCKSDB_LIB_DIR ROCKSDB_STATIC ROCKSDB_COMPILE CARGO_TARGET_DIR CARGO_BUILD_TARGET CARGO_ENCODED_RUSTFLAGS
        RUSTFLAGS="-Ctarget-cpu=$target_cpu" cargo build --quiet --release \
            --manifest-path "$build/Cargo.toml" --target-dir "$build/target" >&2
    )
    archive=$(find "$build/target/release/build" -name librocksdb.a -print -quit)
    [ -n "$archive" ] || { echo "the build left no librocksdb.a" >&2; exit 1; }
    cp "$archive" "$out/librocksdb.a.new"
    mv "$out/librocksdb.a.new" "$out/librocksdb.a"
    rm -rf "$build/target"
fi
echo "$out"
