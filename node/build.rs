//! Compiles the schema by which `larder bench` speaks to etcd; `protox` needs no `protoc`.

use std::error::Error;

const DIR: &str = "src/cli/bench";
const FILE: &str = "etcd.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={DIR}/{FILE}");
    let descriptors = protox::compile([FILE], [DIR])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_server(false)
        .compile_fds(descriptors)?;
    Ok(())
}
