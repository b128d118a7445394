//! Indexes as pure functions: what a definition says, which entries a document has, and which of them a filter or a sort order needs.
//!
//! An index holds, for each document of its bucket, at least one value: bytes that order as the indexed fields do
//! ([`query`](crate::query), `ordered`), component after component, those of descending ones inverted.
//!
//! Invariant, property-tested: a document that a filter matches has a value within the ranges that the filter's plan reads.

use std::sync::Arc;

use crate::query::{Error, Filter, Sort, Subject};
use crate::schema::Layout;

/// An index as clients give it (contract section 4.4): `{"unique":false,"keys":[{"name":"asc"},{"location":"geo"}]}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Dotted paths, in order.
    pub keys: Vec<(String, Kind)>,
    /// Whether no two documents may have the same value. Documents with a null or missing component are exempt.
    pub unique: bool,
}

/// How a component is indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From small to great.
    Ascending,
    /// From great to small.
    Descending,
    /// By place on earth.
    Geo,
}

impl Definition {
    /// Reads the JSON form. Unknown members are ignored (`drop` comes with it).
    ///
    /// # Errors
    /// [`Error::Syntax`], [`Error::Unsupported`], [`Error::Limit`].
    pub fn parse(_json: &[u8]) -> Result<Definition, Error> {
        todo!()
    }

    /// The JSON text, normalised: equal indexes have equal texts.
    pub fn to_json(&self) -> String {
        todo!()
    }
}

/// An index, compiled for a class. Cheap to clone. Knows all that apply needs, without the schema.
#[derive(Clone, Debug)]
pub struct Index(Arc<()>);

/// The hash of a value of a unique index.
pub type ValueHash = [u8; 32];

/// A document would have more values in an index than [`Index::VALUES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyValues;

impl Index {
    /// The most values of one document in one index.
    pub const VALUES_MAX: usize = 1_000;

    /// Compiles a definition for documents of a class.
    ///
    /// # Errors
    /// [`Error::InvalidValue`]: a geo component that holds no places. [`Error::Unsupported`]: two components that are lists.
    pub fn compile(_definition: &Definition, _layout: &Arc<Layout>) -> Result<Index, Error> {
        todo!()
    }

    /// The form for logs and shards' state. Equal indexes of equal types have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// Reads what [`Index::to_bytes`] gave.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(_bytes: &[u8]) -> Result<Index, String> {
        todo!()
    }

    /// What it was compiled from.
    pub fn definition(&self) -> &Definition {
        todo!()
    }

    /// The values of a document, ascending, each once; never none.
    ///
    /// # Errors
    /// [`TooManyValues`].
    pub fn values(&self, _subject: &Subject<'_>) -> Result<Vec<Vec<u8>>, TooManyValues> {
        todo!()
    }

    /// Hashes of the values that no other document may have, ascending, each once; none for an index that is not unique and for exempt
    /// documents. Never of cut-off values.
    ///
    /// # Errors
    /// [`TooManyValues`].
    pub fn unique_values(&self, _subject: &Subject<'_>) -> Result<Vec<ValueHash>, TooManyValues> {
        todo!()
    }
}

/// An index that a plan may use.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// The index.
    pub index: Index,
}

/// What a planner asks of the shard. Estimates may be wrong, and must be cheap.
pub trait Statistics {
    /// About how many documents the bucket has here.
    fn documents(&mut self) -> u64;
    /// About how many entries of an index lie in these ranges.
    fn entries(&mut self, index: u32, ranges: &[Range]) -> u64;
}

/// Values from `from` on, up to and without `to`; an empty `to` is the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First value.
    pub from: Vec<u8>,
    /// End.
    pub to: Vec<u8>,
}

/// How a shard finds the documents of a query.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to look.
    pub access: Access,
    /// About how many entries or documents will be looked at.
    pub estimated: u64,
    /// Every document that the ranges hold matches: for counting without looking at documents.
    pub is_exact: bool,
    /// What was weighed and not taken, for `explain`.
    pub refused: Vec<Refused>,
}

/// See [`Plan::access`].
#[derive(Clone, Debug)]
pub enum Access {
    /// All documents, in the order of keys.
    Scan,
    /// These documents, by decoded key, ascending.
    Keys(Vec<String>),
    /// Ranges of one index.
    Index(IndexAccess),
    /// The union of several; documents may occur in more than one.
    Union(Vec<IndexAccess>),
}

/// Ranges of an index.
#[derive(Clone, Debug)]
pub struct IndexAccess {
    /// Id of the index.
    pub id: u32,
    /// Ascending and disjoint.
    pub ranges: Vec<Range>,
    /// A document may occur more than once.
    pub is_multiple: bool,
    /// Set if walking the ranges gives the order of the query.
    pub order: Option<IndexOrder>,
}

/// How an index gives the order of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexOrder {
    /// From the last value to the first.
    pub backward: bool,
    /// Components of a value that the order is made of. Values that agree in them are in no particular order.
    pub components: usize,
}

/// A plan that was not taken.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The index; `None`: the scan.
    pub index: Option<u32>,
    /// About how many entries or documents it would have looked at.
    pub estimated: u64,
    /// Why it was not taken.
    pub reason: &'static str,
}

impl Index {
    /// The bytes of the first `components` components of a value.
    pub fn prefix<'v>(&self, _value: &'v [u8], _components: usize) -> &'v [u8] {
        todo!()
    }
}

/// Chooses how to find what a filter asks for in an order.
///
/// `wanted` is how many documents are wanted, from the first on; `None`: all.
///
/// # Errors
/// [`Error::Unsupported`]: a filter about places without an index for it.
pub fn plan(
    _filter: &Filter,
    _order: &Sort,
    _wanted: Option<u64>,
    _candidates: &[Candidate],
    _statistics: &mut dyn Statistics,
) -> Result<Plan, Error> {
    todo!()
}
