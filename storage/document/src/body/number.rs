//! Numbers as decimal text, so that no digit goes through a float that cannot hold it.

/// The 64-bit integer that a JSON number denotes, its fraction dropped (towards zero).
///
/// Exact for any number of digits and any exponent: `9007199254740993` and `1.5e3` alike. `None` if the text is no JSON number or the
/// integer does not fit.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (mantissa, ""),
    };
    let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
    if whole.is_empty() || has_leading_zero || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }

    // The decimal point stands after this many digits of `whole` and `fraction` together.
    let point = i64::try_from(whole.len()).ok()?.saturating_add(exponent);
    let digits = || whole.bytes().chain(fraction.bytes());
    let leading_zeros = digits().take_while(|&digit| digit == b'0').count();
    if point <= 0 || leading_zeros == whole.len() + fraction.len() {
        return Some(0);
    }
    // More places than an i64 has: also what keeps the loop short whatever the exponent says.
    if point.saturating_sub(i64::try_from(leading_zeros).ok()?) > 19 {
        return None;
    }
    let places = usize::try_from(point).ok()?;
    digits()
        .chain(std::iter::repeat(b'0'))
        .take(places)
        .try_fold(0i64, |value, digit| {
            let digit = i64::from(digit - b'0');
            let shifted = value.checked_mul(10)?;
            if negative {
                shifted.checked_sub(digit)
            } else {
                shifted.checked_add(digit)
            }
        })
}

/// The exponent, clamped to the range of i64: beyond it only zero is left or nothing fits.
fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !is_digits(digits) {
        return None;
    }
    let magnitude = digits.bytes().fold(0i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    Some(if negative { -magnitude } else { magnitude })
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The value of a JSON number; `None` if the text is none, or if it lies beyond the range of doubles.
pub(crate) fn double(text: &str) -> Option<f64> {
    // `serde_json` also takes blanks around the number, which a key of a map must not have.
    let is_bare = text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && text.ends_with(|last: char| last.is_ascii_digit());
    if !is_bare {
        return None;
    }
    serde_json::from_str::<f64>(text)
        .ok()
        .filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fractions_are_dropped_and_digits_kept() {
        for (text, value) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1.9", Some(1)),
            ("-1.9", Some(-1)),
            ("0.9e1", Some(9)),
            ("1e3", Some(1_000)),
            ("1.2345E+2", Some(123)),
            ("12345e-2", Some(123)),
            ("5e-1", Some(0)),
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775807.999", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("922337203685477580.7e1", Some(i64::MAX)),
            ("1e19", None),
            ("1e999999999999999999999", None),
            ("0e999999999999999999999", Some(0)),
            ("0.000e5", Some(0)),
            ("0.00001e5", Some(1)),
            ("1e-999999999999999999999", Some(0)),
        ] {
            assert_eq!(integer(text), value, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_number_is_refused() {
        for text in [
            "", "-", "+1", "01", "1.", ".5", "1e", "1e+", "0x1", "1_0", " 1", "1 ", "NaN", "inf",
            "١",
        ] {
            assert_eq!(integer(text), None, "{text:?}");
            assert_eq!(double(text), None, "{text:?}");
        }
        assert_eq!(double("1e400"), None);
        assert_eq!(double("-1.5e3"), Some(-1_500.0));
    }

    proptest! {
        #[test]
        fn integers_are_lossless(value: i64) {
            prop_assert_eq!(integer(&value.to_string()), Some(value));
        }

        #[test]
        fn exponents_move_the_point(value in -1_000_000_000i64..1_000_000_000, places in 0u32..8) {
            let scaled = format!("{value}e-{places}");
            prop_assert_eq!(integer(&scaled), Some(value / 10i64.pow(places)));
            let raised = format!("{value}e{places}");
            prop_assert_eq!(integer(&raised), Some(value * 10i64.pow(places)));
        }

        #[test]
        fn agrees_with_serde_on_what_a_number_is(text in "-?[0-9.eE+-]{1,8}") {
            let is_number = serde_json::from_str::<serde_json::Number>(&text).is_ok();
            if !is_number && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
                prop_assert_eq!(integer(&text), None);
            } else if let Some(value) = double(&text).filter(|value| value.abs() < 9e15) {
                // Dropping the fraction of a double agrees where doubles are exact enough, up to rounding at the last digit.
                let exact = integer(&text).expect("in range") as f64;
                prop_assert!((exact - value.trunc()).abs() <= 1.0);
            }
        }
    }
}
