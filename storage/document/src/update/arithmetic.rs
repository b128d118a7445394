//! Numbers: exact where they are whole, doubles elsewhere, and one text for each result.

use super::{Kind, Misfit, Operation};
use crate::body::number;

/// What a numeric operation makes of a stored number; `None`: it stays. An unset one counts as 0, and yields to `$min` and `$max`.
///
/// `operand` is a JSON number, whole where the kind is an integer, except for `$mul`.
pub(super) fn compute(
    operation: Operation,
    kind: Kind,
    stored: Option<&str>,
    operand: &str,
) -> Result<Option<String>, Misfit> {
    if stored.is_none() && matches!(operation, Operation::Min | Operation::Max) {
        return Ok(Some(operand.to_owned()));
    }
    let stored = stored.unwrap_or("0");
    if !stored.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return Err(Misfit::NotANumber);
    }
    let is_bits = matches!(operation, Operation::And | Operation::Or | Operation::Xor);
    match (kind, whole(stored), whole(operand)) {
        (Kind::Integer, Some(stored), _) => integers(operation, stored, operand),
        (Kind::Integer, None, _) => Err(Misfit::NotAnInteger),
        (Kind::Json, Some(stored), Some(_)) => integers(operation, stored, operand),
        _ if is_bits => Err(Misfit::NotAnInteger),
        _ => doubles(operation, stored, operand),
    }
}

/// The 64-bit integer that is written without fraction and exponent.
fn whole(token: &str) -> Option<i64> {
    token.parse().ok()
}

fn integers(operation: Operation, stored: i64, operand: &str) -> Result<Option<String>, Misfit> {
    let result = if operation == Operation::Mul {
        multiplied(stored, operand)
    } else {
        let operand = whole(operand).ok_or(Misfit::Overflow)?;
        match operation {
            Operation::Inc => stored.checked_add(operand),
            Operation::Dec => stored.checked_sub(operand),
            Operation::Min => Some(stored.min(operand)),
            Operation::Max => Some(stored.max(operand)),
            Operation::And => Some(stored & operand),
            Operation::Or => Some(stored | operand),
            Operation::Xor => Some(stored ^ operand),
            _ => None,
        }
    };
    Ok(Some(result.ok_or(Misfit::Overflow)?.to_string()))
}

/// The product without its fraction.
fn multiplied(stored: i64, factor: &str) -> Option<i64> {
    /// Above this not every whole number is a double.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let value = number::double(factor)?;
    if value.fract() == 0.0 {
        return stored.checked_mul(number::integer(factor)?);
    }
    // Clients send a division by n as the double nearest to 1/n. A product with that could be just below the whole quotient.
    let divisor = (1.0 / value).round();
    if divisor.abs() <= EXACT_MAX && 1.0 / divisor == value {
        return stored.checked_div(divisor as i64);
    }
    let product = (stored as f64 * value).trunc();
    (product >= i64::MIN as f64 && product < -(i64::MIN as f64)).then_some(product as i64)
}

fn doubles(operation: Operation, stored: &str, operand: &str) -> Result<Option<String>, Misfit> {
    let (a, b) = (
        number::double(stored).ok_or(Misfit::Overflow)?,
        number::double(operand).ok_or(Misfit::Overflow)?,
    );
    let result = match operation {
        Operation::Inc => a + b,
        Operation::Dec => a - b,
        Operation::Mul => a * b,
        Operation::Min => return Ok((b < a).then(|| operand.to_owned())),
        Operation::Max => return Ok((b > a).then(|| operand.to_owned())),
        _ => return Err(Misfit::NotAnInteger),
    };
    if !result.is_finite() {
        return Err(Misfit::Overflow);
    }
    Ok(Some(double_text(result)))
}

/// The shortest text that reads back as the same double, as JavaScript writes it but for the sign of positive exponents. Stored: it
/// never changes.
fn double_text(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-6..1e21).contains(&magnitude) {
        return value.to_string();
    }
    format!("{value:e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(operation: Operation, kind: Kind, stored: &str, operand: &str) -> Result<String, Misfit> {
        compute(operation, kind, Some(stored), operand)
            .map(|result| result.unwrap_or_else(|| stored.to_owned()))
    }

    #[test]
    fn integers_are_exact_and_overflow_is_refused() {
        let max = i64::MAX.to_string();
        for kind in [Kind::Integer, Kind::Json] {
            assert_eq!(
                of(Operation::Inc, kind, "9007199254740993", "1"),
                Ok("9007199254740994".to_owned())
            );
            assert_eq!(of(Operation::Inc, kind, &max, "1"), Err(Misfit::Overflow));
            assert_eq!(
                of(Operation::Dec, kind, "-9223372036854775808", "1"),
                Err(Misfit::Overflow)
            );
            assert_eq!(of(Operation::Mul, kind, &max, "2"), Err(Misfit::Overflow));
            assert_eq!(of(Operation::Xor, kind, "6", "3"), Ok("5".to_owned()));
        }
    }

    #[test]
    fn a_division_is_one() {
        for (stored, divisor) in [
            (49_i64, 49_i64),
            (9, 3),
            (10, 4),
            (-7, 2),
            (i64::MAX, 7),
            (i64::MIN, 10),
        ] {
            let factor = double_text(1.0 / divisor as f64);
            let expected = Ok((stored / divisor).to_string());
            assert_eq!(
                of(Operation::Mul, Kind::Integer, &stored.to_string(), &factor),
                expected,
                "{stored}/{divisor}"
            );
        }
        assert_eq!(
            of(Operation::Mul, Kind::Integer, "5", "1.5"),
            Ok("7".to_owned())
        );
        assert_eq!(
            of(Operation::Mul, Kind::Integer, "9223372036854775807", "1.5"),
            Err(Misfit::Overflow)
        );
    }

    #[test]
    fn doubles_have_one_text() {
        for (value, text) in [
            (0.1 + 0.2, "0.30000000000000004"),
            (2.0, "2"),
            (-0.0, "-0"),
            (1e20, "100000000000000000000"),
            (1e21, "1e21"),
            (1.5e300, "1.5e300"),
            (0.000001, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(double_text(value), text);
            assert_eq!(
                number::double(text).map(f64::to_bits),
                Some(value.to_bits())
            );
        }
        assert_eq!(
            of(Operation::Mul, Kind::Double, "1e308", "10"),
            Err(Misfit::Overflow)
        );
        assert_eq!(
            of(Operation::Max, Kind::Double, "1.10", "1.1"),
            Ok("1.10".to_owned())
        );
    }
}
