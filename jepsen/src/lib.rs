//! Fault injection: real processes, the public interface, real faults, and a verdict.
//!
//! | part | owns |
//! |---|---|
//! | `db` | the cluster as processes: install, start, kill, pause |
//! | `client` | one operation over HTTP, and what may be concluded from its end |
//! | `generator` | which operation comes next, from a seed |
//! | `workload` | a generator, a client and a checker that belong together |
//! | `nemesis` | what is done to the cluster meanwhile |
//! | `history` | one line per invocation and per completion |
//! | `checker` | what a history shows |
//!
//! Everything random comes from the seed. Timing does not, so a seed repeats a run's plan and not its every step: what
//! is judged is always the history that was written down.

pub mod checker;
pub mod client;
pub mod db;
pub mod generator;
pub mod history;
pub mod nemesis;
pub mod workload;
