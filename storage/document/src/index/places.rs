//! Filters about places, which are answered only where an index has them.

use super::plan::Candidate;
use crate::query::expression::Expression;

/// The path of a condition on places that no index has; `prefix` is that of the elements that are looked at.
pub(super) fn place_without_index(
    expression: &Expression,
    prefix: &str,
    candidates: &[Candidate],
) -> Option<String> {
    match expression {
        Expression::And(parts) | Expression::Or(parts) => parts
            .iter()
            .find_map(|part| place_without_index(part, prefix, candidates)),
        Expression::Not(inner) => place_without_index(inner, prefix, candidates),
        Expression::On(path, test) => {
            let own = path.text();
            // The path of an element itself is that of its array.
            let path = if prefix.is_empty() || own == prefix {
                own.to_owned()
            } else {
                format!("{prefix}.{own}")
            };
            if let Some(inner) = test.of_elements() {
                return place_without_index(inner, &path, candidates);
            }
            let is_indexed = candidates.iter().any(|candidate| {
                let components = &candidate.index.0.components;
                components
                    .iter()
                    .any(|component| component.is_geo() && component.path.text() == path)
            });
            (test.is_place() && !is_indexed).then_some(path)
        }
    }
}
