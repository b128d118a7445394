//! Tests of the state machines: scenarios as golden scripts, properties against a model, and what a replica does with entries.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p storage scripts` writes the scripts' output anew; its diff is a change of behaviour.

mod audit;
mod corrupt;
mod cost;
mod harness;
mod indexes;
mod kept;
mod model;
mod readers;
mod replica;
mod rights;
mod script;
mod show;
mod stale;
mod usage;
