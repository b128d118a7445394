//! Dates, times of day and moments: their texts as milliseconds, so that they can be ordered.

use crate::schema::FieldType;
use crate::time;

const MS_PER_DAY: i64 = 86_400_000;

/// Whether values of the type are moments.
pub(super) fn is_moment(ty: Option<&FieldType>) -> bool {
    matches!(
        ty,
        Some(FieldType::DateTime | FieldType::Date | FieldType::Time)
    )
}

/// The moment that a text of this type denotes: milliseconds since 1970 UTC, of a date those of its midnight, of a time those since
/// midnight. `None` if the type is none of moments, or the text is none of the type.
///
/// Reads also whole moments where a date or a time is due; the rest of them is dropped.
pub(super) fn of_text(text: &str, ty: Option<&FieldType>) -> Option<i64> {
    match ty? {
        FieldType::DateTime => milliseconds(text),
        FieldType::Date => {
            let moment = with_parts(text, "T00:00:00Z").or_else(|| milliseconds(text))?;
            Some(moment - moment.rem_euclid(MS_PER_DAY))
        }
        FieldType::Time => {
            let time = text.strip_prefix(['T', 't']).unwrap_or(text);
            // The day is arbitrary, and far from the ends of the calendar so that no offset leaves it.
            let moment = with_parts("1970-01-02T", time).or_else(|| milliseconds(text))?;
            Some(moment.rem_euclid(MS_PER_DAY))
        }
        _ => None,
    }
}

/// The moment of a stored clock, as it is shown.
pub(super) fn of_us(us: i64) -> i64 {
    us.div_euclid(1_000)
}

fn milliseconds(text: &str) -> Option<i64> {
    time::parse_datetime(text).map(of_us)
}

/// Reads the two parts as one text, put together on the stack: this runs for every document that is looked at.
fn with_parts(first: &str, second: &str) -> Option<i64> {
    let mut buffer = [0; 48];
    let whole = buffer.get_mut(..first.len() + second.len())?;
    let (head, tail) = whole.split_at_mut(first.len());
    head.copy_from_slice(first.as_bytes());
    tail.copy_from_slice(second.as_bytes());
    milliseconds(std::str::from_utf8(whole).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_by_the_type_of_the_field() {
        let moment = |text, ty| of_text(text, Some(&ty));
        assert_eq!(
            moment("1970-01-01T00:00:01.5Z", FieldType::DateTime),
            Some(1_500)
        );
        assert_eq!(moment("1970-01-02", FieldType::Date), Some(MS_PER_DAY));
        assert_eq!(
            moment("1970-01-02T23:00:00.000Z", FieldType::Date),
            Some(MS_PER_DAY)
        );
        assert_eq!(moment("00:00:01.5Z", FieldType::Time), Some(1_500));
        assert_eq!(moment("00:30:00+01:00", FieldType::Time), Some(84_600_000));
        assert_eq!(
            moment("2020-02-03T00:00:02.000Z", FieldType::Time),
            Some(2_000)
        );
        assert_eq!(moment("yesterday", FieldType::Date), None);
        assert_eq!(moment("1970-01-02", FieldType::String), None);
        assert_eq!(of_text("1970-01-02", None), None);
        assert_eq!(of_us(-1), -1);
    }
}
