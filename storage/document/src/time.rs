//! Moments as they are stored (microseconds since 1970-01-01T00:00:00Z) and as JSON shows them.
//!
//! JSON shows milliseconds in UTC with the trailing zeros of the fraction, and an empty fraction, removed: the form that the
//! JavaScript client writes and compares. One moment has one text, so equality and order of texts of four-digit years are those of the
//! moments within one length of fraction, and caches may compare bytes.
//!
//! [`format_datetime`] runs for every write that is applied, hence the integer arithmetic by hand; it is checked against `jiff`, which
//! does all reading that is not in the canonical form.
//!
//! Lacks: the current time. Nothing in this crate asks for it.

use jiff::civil;
use jiff::tz::TimeZone;

const US_PER_SECOND: i64 = 1_000_000;
const US_PER_DAY: i64 = 86_400 * US_PER_SECOND;

/// The JSON text of the moment `us` microseconds after 1970 UTC: `1970-01-01T00:00:01Z`, `…01.5Z`.
///
/// Rounded down to milliseconds. Years outside 0 to 9999 get a sign and six digits, as in JavaScript.
pub fn format_datetime(us: i64) -> String {
    let mut out = Vec::with_capacity(DATETIME_BYTES_MAX);
    write_datetime(&mut out, us);
    text(out)
}

/// Longest text that [`write_datetime`] appends: a signed six-digit year and three digits of fraction.
pub(crate) const DATETIME_BYTES_MAX: usize = 27;

/// Appends [`format_datetime`] of `us`, without quotes.
pub(crate) fn write_datetime(out: &mut Vec<u8>, us: i64) {
    write_date(out, us.div_euclid(US_PER_DAY));
    out.push(b'T');
    write_time(out, us.rem_euclid(US_PER_DAY));
}

/// Appends the date of the day `days` after 1970-01-01 in the proleptic Gregorian calendar.
fn write_date(out: &mut Vec<u8>, days: i64) {
    // Years are counted from 1 March, so that the leap day is the last of its year, in eras of 400 years, which all have the same
    // number of days. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);

    if (0..=9_999).contains(&year) {
        write_digits(out, year, 4);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        write_digits(out, year.abs(), 6);
    }
    out.push(b'-');
    write_digits(out, month, 2);
    out.push(b'-');
    write_digits(out, day, 2);
}

/// Appends the time of day, `us` microseconds after midnight, with its `Z`.
fn write_time(out: &mut Vec<u8>, us: i64) {
    let seconds = us / US_PER_SECOND;
    write_digits(out, seconds / 3_600, 2);
    out.push(b':');
    write_digits(out, seconds / 60 % 60, 2);
    out.push(b':');
    write_digits(out, seconds % 60, 2);
    let milliseconds = us % US_PER_SECOND / 1_000;
    if milliseconds > 0 {
        out.push(b'.');
        write_digits(out, milliseconds, 3);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    out.push(b'Z');
}

/// Appends the last `width` decimal digits of the non-negative `value`.
fn write_digits(out: &mut Vec<u8>, value: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = value / 10i64.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).unwrap_or(0));
    }
}

/// Reads a moment in any ISO 8601 form that names one; microseconds since 1970 UTC.
///
/// Accepted: extended and basic form, `T` or a blank between date and time, seconds and fraction optional (finer than microseconds is
/// cut off), `Z`, an offset or no zone at all, a date alone for its midnight, signed six-digit years. Without a zone UTC is meant: the
/// server has no other one. `None` for everything else, also for dates that do not exist and years outside -9999 to 9999.
pub fn parse_datetime(text: &str) -> Option<i64> {
    if let Some(us) = parse_canonical(text.as_bytes()) {
        return Some(us);
    }
    let timestamp = if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        timestamp
    } else if has_zone(text) {
        // A zone that `Timestamp` refused is a bad one. The civil parser below would pass over it.
        return None;
    } else {
        let civil = text.parse::<civil::DateTime>().ok()?;
        civil.to_zoned(TimeZone::UTC).ok()?.timestamp()
    };
    let us = timestamp.as_nanosecond().div_euclid(1_000);
    i64::try_from(us).ok()
}

/// Whether the text has something that could be a zone: after the time of day, `Z`, a sign or a bracket.
fn has_zone(text: &str) -> bool {
    let time = text.find(['T', 't', ' ']).map_or("", |at| &text[at + 1..]);
    time.contains(['Z', 'z', '+', '-', '\u{2212}', '['])
}

/// Reads exactly `YYYY-MM-DDTHH:MM:SS[.f…]Z` with up to six digits of fraction: what clients send, at no cost.
fn parse_canonical(text: &[u8]) -> Option<i64> {
    let (head, tail) = text.split_at_checked(19)?;
    let separators = [head[4], head[7], head[10], head[13], head[16]];
    if separators != *b"--T::" {
        return None;
    }
    let year = digits(&head[0..4])?;
    let month = digits(&head[5..7])?;
    let day = digits(&head[8..10])?;
    let hour = digits(&head[11..13])?;
    let minute = digits(&head[14..16])?;
    let second = digits(&head[17..19])?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let fraction = match tail.strip_suffix(b"Z")? {
        [] => 0,
        [b'.', fraction @ ..] if (1..=6).contains(&fraction.len()) => {
            let missing = 6 - u32::try_from(fraction.len()).ok()?;
            digits(fraction)? * 10i64.pow(missing)
        }
        _ => return None,
    };
    let seconds = (hour * 60 + minute) * 60 + second;
    Some(days_from_civil(year, month, day) * US_PER_DAY + seconds * US_PER_SECOND + fraction)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0i64, |value, byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + i64::from(byte - b'0'))
    })
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the given date. The inverse of [`write_date`], same source.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The canonical text of a `/db/DateTime`, from any form that [`parse_datetime`] reads.
pub fn normalise_datetime(text: &str) -> Option<String> {
    parse_datetime(text).map(format_datetime)
}

/// The canonical text of a `/db/Date`, `2020-02-03`: the UTC date of any form that [`parse_datetime`] reads.
pub fn normalise_date(text: &str) -> Option<String> {
    let us = parse_datetime(text)?;
    let mut out = Vec::with_capacity(13);
    write_date(&mut out, us.div_euclid(US_PER_DAY));
    Some(self::text(out))
}

/// The canonical text of a `/db/Time`, `04:05:06.7Z`: the UTC time of day, without any date.
///
/// Accepts what may follow the `T` in a moment (`04:05`, `04:05:06+01:00`, with or without the `T`), and whole moments, whose date is
/// dropped.
pub fn normalise_time(text: &str) -> Option<String> {
    let time = text.strip_prefix(['T', 't']).unwrap_or(text);
    // The day is arbitrary, and far from the ends of the calendar so that no offset leaves it.
    let us = parse_datetime(&format!("1970-01-02T{time}")).or_else(|| parse_datetime(text))?;
    let mut out = Vec::with_capacity(13);
    write_time(&mut out, us.rem_euclid(US_PER_DAY));
    Some(self::text(out))
}

/// The string of bytes that are all ASCII.
fn text(out: Vec<u8>) -> String {
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn datetimes_have_one_text() {
        for (us, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_000_000, "1970-01-01T00:00:01Z"),
            (1_500_000, "1970-01-01T00:00:01.5Z"),
            (1_050_000, "1970-01-01T00:00:01.05Z"),
            (1_999, "1970-01-01T00:00:00.001Z"),
            (999, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000_000, "+010000-01-01T00:00:00Z"),
            (-62_167_219_200_000_000, "0000-01-01T00:00:00Z"),
            (-62_167_219_200_000_001, "-000001-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_datetime(us), text);
        }
        assert!(format_datetime(i64::MIN).len() <= DATETIME_BYTES_MAX);
        assert!(format_datetime(i64::MAX).len() <= DATETIME_BYTES_MAX);
    }

    #[test]
    fn any_iso_form_is_accepted() {
        for (text, canonical) in [
            ("2018-01-12T10:50:55.45Z", "2018-01-12T10:50:55.45Z"),
            ("2018-01-12T10:50:55.450Z", "2018-01-12T10:50:55.45Z"),
            ("2018-01-12T10:50:55.450999999Z", "2018-01-12T10:50:55.45Z"),
            ("2018-01-12T10:50:55,45Z", "2018-01-12T10:50:55.45Z"),
            ("2018-01-12t10:50:55z", "2018-01-12T10:50:55Z"),
            ("2018-01-12T10:50:55+02:00", "2018-01-12T08:50:55Z"),
            ("2018-01-12T10:50:55-0230", "2018-01-12T13:20:55Z"),
            ("2018-01-12T10:50:55+02", "2018-01-12T08:50:55Z"),
            ("2018-01-12 10:50:55Z", "2018-01-12T10:50:55Z"),
            ("2018-01-12T10:50Z", "2018-01-12T10:50:00Z"),
            ("2018-01-12T10:50", "2018-01-12T10:50:00Z"),
            ("2018-01-12", "2018-01-12T00:00:00Z"),
            ("20180112T105055Z", "2018-01-12T10:50:55Z"),
            ("20180112", "2018-01-12T00:00:00Z"),
            ("+002018-01-12T10:50:55Z", "2018-01-12T10:50:55Z"),
            ("2020-02-29T00:00:00Z", "2020-02-29T00:00:00Z"),
        ] {
            assert_eq!(
                normalise_datetime(text).as_deref(),
                Some(canonical),
                "{text}"
            );
        }
    }

    #[test]
    fn what_names_no_moment_is_refused() {
        for text in [
            "",
            "now",
            "2018",
            "2018-13-01",
            "2018-02-29",
            "2018-02-29T00:00:00Z",
            "2018-04-31T00:00:00Z",
            "2018-01-00T00:00:00Z",
            "2018-01-12T24:00:01Z",
            "2018-01-12T10:60:00Z",
            "2018-01-12T10:50:55.Z",
            "2018-01-12T10:50:55Q",
            "2018-01-12T10:50:55+99:00",
            "2018-01-12T10:50:55Zx",
            " 2018-01-12",
            "1515754255",
        ] {
            assert_eq!(parse_datetime(text), None, "{text}");
        }
    }

    #[test]
    fn dates_and_times_are_the_halves_of_a_moment() {
        for (text, date) in [
            ("2020-02-03", "2020-02-03"),
            ("2020-02-03T23:30:00-01:00", "2020-02-04"),
            ("20200203", "2020-02-03"),
        ] {
            assert_eq!(normalise_date(text).as_deref(), Some(date), "{text}");
        }
        for (text, time) in [
            ("04:05:06.7Z", "04:05:06.7Z"),
            ("04:05:06.700Z", "04:05:06.7Z"),
            ("04:05", "04:05:00Z"),
            ("T04:05:06", "04:05:06Z"),
            ("00:30:00+01:00", "23:30:00Z"),
            ("040506Z", "04:05:06Z"),
            ("2020-02-03T04:05:06.7Z", "04:05:06.7Z"),
        ] {
            assert_eq!(normalise_time(text).as_deref(), Some(time), "{text}");
        }
        assert_eq!(normalise_time("25:00"), None);
        assert_eq!(normalise_time(""), None);
        assert_eq!(normalise_date("04:05"), None);
    }

    proptest! {
        #[test]
        fn formatting_agrees_with_jiff(us in -62_167_219_200_000_000i64..253_402_207_200_000_000) {
            let ms = us.div_euclid(1_000);
            let reference = Timestamp::from_millisecond(ms).expect("in range").to_string();
            prop_assert_eq!(format_datetime(us), reference);
        }

        #[test]
        fn reading_is_the_inverse_of_formatting(ms in -62_167_219_200_000i64..253_402_207_200_000) {
            let text = format_datetime(ms * 1_000);
            prop_assert_eq!(parse_canonical(text.as_bytes()), Some(ms * 1_000));
            prop_assert_eq!(normalise_datetime(&text), Some(text.clone()));
        }

        #[test]
        fn the_fast_path_agrees_with_jiff(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?Z") {
            let reference = text.parse::<Timestamp>().ok().map(|timestamp| timestamp.as_microsecond());
            prop_assert_eq!(parse_canonical(text.as_bytes()), reference);
        }

        #[test]
        fn reading_never_panics(text in "[0-9TZ:+\\-. \\[\\]]{0,32}|\\PC{0,12}") {
            let _ = normalise_datetime(&text);
            let _ = normalise_date(&text);
            let _ = normalise_time(&text);
        }
    }
}
