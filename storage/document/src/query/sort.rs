//! Orders of documents, as bytes.

use std::sync::Arc;

use super::{Error, Limits, Subject};
use crate::schema::Layout;

/// An order of documents. Cheap to clone. Always total: documents that are otherwise equal are ordered by id.
#[derive(Clone, Debug, Default)]
pub struct Sort {
    keys: Arc<[()]>,
}

impl Sort {
    /// Reads `{"field":1,"other":-1}`; the order of members is their priority. An empty text is `{}`, the order by id.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(text: &[u8], _layout: &Arc<Layout>, _limits: &Limits) -> Result<Sort, Error> {
        if text.is_empty() || text == b"{}" {
            return Ok(Sort::default());
        }
        Err(Error::Unsupported("only {} is read yet".to_owned()))
    }

    /// Whether it names no field, so that documents come by id.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Where the document stands in this order.
    pub fn key(&self, subject: &Subject<'_>) -> SortKey {
        SortKey(subject.id.as_bytes().into())
    }

    /// As JSON text, in the form that [`Sort::parse`] reads.
    pub fn canonical(&self) -> String {
        "{}".to_owned()
    }
}

/// The place of a document in an order: bytes that compare as the documents do, directions and the id included.
///
/// Keys of different orders must not be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortKey(Box<[u8]>);

impl SortKey {
    /// The bytes, for tokens and for the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A key from the bytes of [`SortKey::as_bytes`]. Any bytes will do: foreign ones are some place in the order.
    pub fn from_bytes(bytes: &[u8]) -> SortKey {
        SortKey(bytes.into())
    }
}
