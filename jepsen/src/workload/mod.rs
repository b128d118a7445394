//! Workloads: a generator, a client and a checker that belong together.

pub mod register;
