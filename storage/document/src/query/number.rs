//! Numbers of both kinds on one line: integers of 64 bits and doubles, compared exactly.

use std::cmp::Ordering;

/// A number. Whole doubles that fit are integers here, so equal numbers are equal values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(i64),
    /// Has a fraction or lies beyond 64 bits; never NaN.
    Double(f64),
}

/// 2^63, the first double beyond i64.
const BEYOND: f64 = 9_223_372_036_854_775_808.0;

impl Number {
    /// The number that a JSON token denotes. Integers beyond 64 bits, and whatever has a point or an exponent, are read as doubles, as
    /// clients read them.
    pub(crate) fn parse(token: &[u8]) -> Option<Number> {
        let text = std::str::from_utf8(token).ok()?;
        if let Ok(integer) = text.parse::<i64>() {
            return Some(Number::Integer(integer));
        }
        text.parse::<f64>().ok().and_then(Number::of_double)
    }

    /// `None` for NaN.
    pub(crate) fn of_double(double: f64) -> Option<Number> {
        if double.is_nan() {
            return None;
        }
        if double.fract() == 0.0 && (-BEYOND..BEYOND).contains(&double) {
            return Some(Number::Integer(double as i64));
        }
        Some(Number::Double(double))
    }

    pub(crate) fn of_json(number: &serde_json::Number) -> Option<Number> {
        match number.as_i64() {
            Some(integer) => Some(Number::Integer(integer)),
            None => number.as_f64().and_then(Number::of_double),
        }
    }

    /// Without its fraction; `None` if it does not fit into 64 bits.
    pub(crate) fn truncated(self) -> Option<i64> {
        match self {
            Number::Integer(integer) => Some(integer),
            Number::Double(double) if (-BEYOND..BEYOND).contains(&double) => Some(double as i64),
            Number::Double(_) => None,
        }
    }

    pub(crate) fn as_double(self) -> f64 {
        match self {
            Number::Integer(integer) => integer as f64,
            Number::Double(double) => double,
        }
    }

    /// Appends ten bytes that order as the numbers do: the nearest double, and what an integer is off from it.
    ///
    /// Rounding never reverses an order, so only integers with the same nearest double are left to be told apart, and those are at most
    /// 1,024 apart.
    pub(crate) fn write_ordered(self, out: &mut Vec<u8>) {
        let nearest = self.as_double();
        let rest = match self {
            Number::Integer(integer) => i128::from(integer) - nearest as i128,
            Number::Double(_) => 0,
        };
        let bits = nearest.to_bits();
        let ordered = if bits >> 63 == 0 {
            bits | 1 << 63
        } else {
            !bits
        };
        out.extend_from_slice(&ordered.to_be_bytes());
        out.extend_from_slice(&((rest + 0x8000) as u16).to_be_bytes());
    }
}

impl Eq for Number {}

impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        match (*self, *other) {
            (Number::Integer(one), Number::Integer(two)) => one.cmp(&two),
            (Number::Double(one), Number::Double(two)) => one.total_cmp(&two),
            (Number::Integer(one), Number::Double(two)) => compare(one, two),
            (Number::Double(one), Number::Integer(two)) => compare(two, one).reverse(),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An integer against a double that is none.
fn compare(integer: i64, double: f64) -> Ordering {
    if double >= BEYOND {
        return Ordering::Less;
    }
    if double < -BEYOND {
        return Ordering::Greater;
    }
    let towards_zero = if double.fract() > 0.0 {
        Ordering::Less
    } else {
        Ordering::Greater
    };
    integer.cmp(&(double as i64)).then(towards_zero)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(number: Number) -> Vec<u8> {
        let mut out = Vec::new();
        number.write_ordered(&mut out);
        out
    }

    #[test]
    fn tokens_are_read_without_loss() {
        for (token, number) in [
            ("9007199254740993", Number::Integer(9_007_199_254_740_993)),
            ("-9223372036854775808", Number::Integer(i64::MIN)),
            ("1.0", Number::Integer(1)),
            ("-0.0", Number::Integer(0)),
            ("1e3", Number::Integer(1_000)),
            ("0.5", Number::Double(0.5)),
            ("9223372036854775808", Number::Double(BEYOND)),
            ("1e999", Number::Double(f64::INFINITY)),
        ] {
            assert_eq!(Number::parse(token.as_bytes()), Some(number), "{token}");
        }
        for token in ["", "-", "NaN", "x", "\u{663}"] {
            assert_eq!(Number::parse(token.as_bytes()), None, "{token}");
        }
    }

    #[test]
    fn neighbours_beyond_doubles_are_told_apart() {
        let line = [
            Number::Double(f64::NEG_INFINITY),
            Number::Double(-1e19),
            Number::Integer(i64::MIN),
            Number::Integer(i64::MIN + 1),
            Number::Double(-1.5),
            Number::Integer(-1),
            Number::Double(-0.5),
            Number::Integer(0),
            Number::Double(5e-324),
            Number::Double(0.5),
            Number::Integer(1),
            Number::Integer(9_007_199_254_740_992),
            Number::Integer(9_007_199_254_740_993),
            Number::Integer(i64::MAX - 1),
            Number::Integer(i64::MAX),
            Number::Double(BEYOND),
            Number::Double(f64::INFINITY),
        ];
        for pair in line.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
            assert!(bytes(pair[0]) < bytes(pair[1]), "{pair:?}");
        }
    }

    fn number() -> impl Strategy<Value = Number> {
        prop_oneof![
            any::<i64>().prop_map(Number::Integer),
            (-3i64..3).prop_map(Number::Integer),
            any::<f64>().prop_filter_map("NaN", Number::of_double),
            (-8i32..8).prop_filter_map("NaN", |n| Number::of_double(f64::from(n) / 4.0)),
            (any::<i64>(), -2i64..3).prop_map(|(base, off)| Number::Integer(
                ((base as f64) as i64).saturating_add(off)
            )),
            any::<i64>().prop_filter_map("NaN", |base| Number::of_double(base as f64)),
        ]
    }

    proptest! {
        #[test]
        fn bytes_order_as_numbers(one in number(), two in number()) {
            prop_assert_eq!(bytes(one).cmp(&bytes(two)), one.cmp(&two));
            prop_assert_eq!(one.cmp(&two), two.cmp(&one).reverse());
            prop_assert_eq!(one == two, one.cmp(&two).is_eq());
        }
    }
}
