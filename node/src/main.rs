//! The `larder` binary: the command line, and nothing else.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Long-running processes with many small buffers fragment the system's allocator.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    larder::cli::main(larder::node::run)
}
