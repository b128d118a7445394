//! Fault injection: real processes, the public interface, real faults, and a verdict.
//!
//! | part | owns |
//! |---|---|
//! | `db` | the cluster as processes: namespaces, disks, install, start, kill, pause |
//! | `client` | one request over HTTP or gRPC, and what may be concluded from its end |
//! | `workload` | what clients do, from a seed, and which checker judges it |
//! | `nemesis` | what is done to the cluster meanwhile, from the same seed |
//! | `history` | one line per invocation, per end and per fault |
//! | `checker` | what a history shows |
//! | `report` | what people read |
//! | `run` | all of it, once |
//!
//! Everything random comes from the seed. Timing does not, so a seed repeats a run's plan and not its every step: what
//! is judged is always the history that was written down.

pub mod checker;
pub mod client;
pub mod db;
pub mod history;
pub mod nemesis;
pub mod report;
pub mod run;
pub mod workload;
