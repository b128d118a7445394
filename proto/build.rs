//! Compiles the three schemas with `protox`, so that no `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "larder/v1/documents.proto",
        "larder/peer/v1/peer.proto",
        "larder/log/v1/log.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Ordered maps: what lies in a log or a snapshot must encode to the same bytes on every replica.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        // Its text form is written by hand, without the key.
        .skip_debug(["larder.peer.v1.TransferKey"])
        .compile_fds(descriptors)?;
    Ok(())
}
