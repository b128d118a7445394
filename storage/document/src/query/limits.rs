//! How much one filter or sort order may ask of us.

/// Bounds on filters and sort orders, so that no request costs more than its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the text in bytes.
    pub text_bytes_max: usize,
    /// How deep objects and arrays may nest, the outermost object being level 1.
    pub depth_max: usize,
    /// Conditions in one filter, those inside of `$and`, `$or`, `$nor`, `$not` and `$elemMatch` included.
    pub conditions_max: usize,
    /// Elements of one `$in`, `$nin` or `$all`.
    pub in_max: usize,
    /// Steps of one dotted path.
    pub path_steps_max: usize,
    /// Fields of one sort order.
    pub sort_keys_max: usize,
    /// Regular expressions in one filter.
    pub regexes_max: usize,
    /// Length of one regular expression in bytes.
    pub regex_bytes_max: usize,
    /// Memory that one compiled regular expression may take, in bytes.
    pub regex_compiled_bytes_max: usize,
    /// Points of all rings of one polygon together.
    pub polygon_points_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            text_bytes_max: 256 * 1024,
            depth_max: 32,
            conditions_max: 1_000,
            in_max: 10_000,
            path_steps_max: 32,
            sort_keys_max: 32,
            regexes_max: 16,
            regex_bytes_max: 1_024,
            // What `\w` with its Unicode tables takes a few times over.
            regex_compiled_bytes_max: 1024 * 1024,
            polygon_points_max: 1_000,
        }
    }
}
