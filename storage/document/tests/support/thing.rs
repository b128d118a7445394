//! The class `Thing` that scripts store documents of.

use std::sync::Arc;

use document::acl::Principal;
use document::body;
use document::schema::{Layout, Schema};

/// A schema and its class `Thing`.
pub(crate) struct Thing {
    schema: Schema,
    pub(crate) layout: Arc<Layout>,
}

impl Thing {
    /// What the descriptors say.
    ///
    /// # Panics
    /// If they are wrong.
    pub(crate) fn new(descriptors: &str) -> Thing {
        let changes = Schema::parse_changes(descriptors.as_bytes()).expect("descriptors");
        let schema = Schema::system().merge(&changes, &Principal::root());
        let schema = schema.expect("a schema");
        let layout = Arc::new(schema.layout("Thing").expect("the class"));
        Thing { schema, layout }
    }

    /// The fields of a document as they are stored.
    ///
    /// # Errors
    /// Those of the document.
    pub(crate) fn fields(&self, json: &str) -> Result<Vec<u8>, document::Error> {
        let limits = body::Limits::default();
        let parsed = body::parse(json.as_bytes(), &self.layout, &self.schema, &limits)?;
        Ok(parsed.fields)
    }
}
