//! Typed reads and writes over the keys of one store: what each row holds, and nothing about when it changes (that is `machine`).
//!
//! | module | rows |
//! |---|---|
//! | [`applied`] | the applied id, membership, chain hash and times |
//! | [`buckets`] | what apply knows of a bucket |
//! | [`documents`] | documents and tombstones |
//! | [`change_log`] | change events |
//! | [`expiry`] | documents in the order in which they expire |
//! | [`indexes`] | entries of indexes, and how far their building is |
//! | [`estimates`] | none: how many of them there are |
//! | [`readers`] | documents under the references that may read them |
//! | [`reservations`] | whose the values of unique indexes are |
//! | [`rights`] | which roles changed and whose sessions ended |
//! | [`stale`] | what web caches may hold old copies of |
//! | [`usage`] | what the documents of a database take |
//! | [`audit`] | the shard's audit log |
//! | [`idempotency`] | outcomes of requests with an idempotency key, their ages and their bytes |
//!
//! Reads are over a [`crate::machine::Replica`] (newest), a [`crate::machine::ReplicaView`] (unchanging) or, for apply alone, a
//! [`crate::machine::Transaction`]. A row that cannot be read is [`crate::Error::Corrupt`], never a panic and never absent.

mod acl;
pub mod applied;
pub mod audit;
pub mod buckets;
pub mod change_log;
pub mod documents;
pub mod estimates;
pub mod expiry;
pub mod idempotency;
pub mod indexes;
pub mod readers;
pub mod reservations;
pub mod rights;
pub mod stale;
pub mod usage;
