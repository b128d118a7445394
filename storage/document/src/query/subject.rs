//! The document that a filter or a sort order is asked about.

/// A stored document.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The full id, `/db/<bucket>/<encoded key>`.
    pub id: &'a str,
    /// Its version.
    pub version: u64,
    /// When it was inserted, in microseconds since 1970 UTC. Compared as shown: rounded down to milliseconds.
    pub created_us: i64,
    /// When it was last written, likewise.
    pub updated_us: i64,
    /// The stored fields in the normal form of [`body`](crate::body): members without braces.
    pub fields: &'a [u8],
}
