//! What MongoDB's rules say, over trees of values. Shares nothing with the code it is compared with.

use std::cmp::Ordering;

use serde_json::{Map, Value as Json, json};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    /// Fourths, so that comparisons are exact. Written as a double.
    Fourths(i64),
    Text(String),
    Boolean(bool),
    /// Its text and where it stands among those of its kind.
    Moment(&'static str, i64),
    Object(Vec<(String, Value)>),
    Array(Vec<Value>),
}

impl Value {
    /// As in a body.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Integer(value) => json!(value),
            Value::Fourths(value) => json!(*value as f64 / 4.0),
            Value::Text(value) => json!(value),
            Value::Boolean(value) => json!(value),
            Value::Moment(value, _) => json!(value),
            Value::Object(members) => Json::Object(
                members
                    .iter()
                    .map(|(name, value)| (name.clone(), value.to_json()))
                    .collect(),
            ),
            Value::Array(elements) => elements.iter().map(Value::to_json).collect(),
        }
    }

    /// As in a filter.
    fn to_operand(&self) -> Json {
        match self {
            Value::Moment(value, _) if value.contains('T') => json!({ "$date": value }),
            Value::Array(elements) => elements.iter().map(Value::to_operand).collect(),
            other => other.to_json(),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Value::Null => 1,
            Value::Integer(_) | Value::Fourths(_) => 2,
            Value::Text(_) => 3,
            Value::Object(_) => 4,
            Value::Array(_) => 5,
            Value::Boolean(_) => 6,
            Value::Moment(..) => 7,
        }
    }

    fn fourths(&self) -> i128 {
        match self {
            Value::Integer(value) => i128::from(*value) * 4,
            Value::Fourths(value) => i128::from(*value),
            other => panic!("{other:?} is no number"),
        }
    }

    fn compare(&self, other: &Value) -> Ordering {
        if self.rank() != other.rank() {
            return self.rank().cmp(&other.rank());
        }
        match (self, other) {
            (Value::Null, _) => Ordering::Equal,
            (Value::Text(one), Value::Text(two)) => one.as_bytes().cmp(two.as_bytes()),
            (Value::Boolean(one), Value::Boolean(two)) => one.cmp(two),
            (Value::Moment(_, one), Value::Moment(_, two)) => one.cmp(two),
            (Value::Array(one), Value::Array(two)) => {
                for (one, two) in one.iter().zip(two) {
                    if one.compare(two) != Ordering::Equal {
                        return one.compare(two);
                    }
                }
                one.len().cmp(&two.len())
            }
            (Value::Object(one), Value::Object(two)) => {
                for ((name, value), (other_name, other)) in one.iter().zip(two) {
                    if value.rank() != other.rank() {
                        return value.rank().cmp(&other.rank());
                    }
                    if name != other_name {
                        return name.cmp(other_name);
                    }
                    if value.compare(other) != Ordering::Equal {
                        return value.compare(other);
                    }
                }
                one.len().cmp(&two.len())
            }
            (one, two) => one.fourths().cmp(&two.fourths()),
        }
    }

    fn equals(&self, other: &Value) -> bool {
        self.compare(other) == Ordering::Equal
    }

    fn member(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members
                .iter()
                .find(|(member, _)| member == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Nor(Vec<Filter>),
    Field(String, Vec<Operator>),
}

#[derive(Clone, Debug)]
pub(crate) enum Operator {
    Equal(Value),
    NotEqual(Value),
    Greater(Value),
    GreaterOrEqual(Value),
    Less(Value),
    LessOrEqual(Value),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    All(Vec<Value>),
    Exists(bool),
    Remainder(i64, i64),
    Size(usize),
    Begins(String),
    Not(Vec<Operator>),
    Element(Vec<Operator>),
    ElementObject(Box<Filter>),
}

/// What a path leads to: a value or nothing, and whether an array there is to be searched.
type Reached<'a> = (Option<&'a Value>, bool);

fn reach<'a>(value: Option<&'a Value>, steps: &[&str]) -> Vec<Reached<'a>> {
    if steps.is_empty() {
        return vec![(value, true)];
    }
    match value {
        Some(object @ Value::Object(_)) => reach(object.member(steps[0]), &steps[1..]),
        Some(Value::Array(elements)) => {
            let mut reached = Vec::new();
            for (at, element) in elements.iter().enumerate() {
                if let Value::Object(_) = element {
                    reached.extend(reach(Some(element), steps));
                }
                if at.to_string() == steps[0] {
                    if steps.len() == 1 {
                        reached.push((Some(element), false));
                    } else if let Value::Object(_) | Value::Array(_) = element {
                        reached.extend(reach(Some(element), &steps[1..]));
                    }
                }
            }
            reached
        }
        _ => vec![(None, true)],
    }
}

impl Filter {
    pub(crate) fn to_json(&self) -> Json {
        let list = |name: &str, parts: &[Filter]| json!({ name: parts.iter().map(Filter::to_json).collect::<Vec<_>>() });
        match self {
            Filter::And(parts) => list("$and", parts),
            Filter::Or(parts) => list("$or", parts),
            Filter::Nor(parts) => list("$nor", parts),
            Filter::Field(path, operators) => match operators.as_slice() {
                [Operator::Equal(value)] => json!({ path: value.to_operand() }),
                operators => json!({ path: to_json(operators) }),
            },
        }
    }

    pub(crate) fn matches(&self, document: &Value) -> bool {
        match self {
            Filter::And(parts) => parts.iter().all(|part| part.matches(document)),
            Filter::Or(parts) => parts.iter().any(|part| part.matches(document)),
            Filter::Nor(parts) => !parts.iter().any(|part| part.matches(document)),
            Filter::Field(path, operators) => {
                let steps: Vec<&str> = path.split('.').collect();
                let reached = reach(Some(document), &steps);
                operators.iter().all(|operator| operator.holds(&reached))
            }
        }
    }
}

fn to_json(operators: &[Operator]) -> Json {
    let mut members = Map::new();
    let list = |values: &[Value]| values.iter().map(Value::to_operand).collect::<Json>();
    for operator in operators {
        let (name, argument) = match operator {
            Operator::Equal(value) => ("$eq", value.to_operand()),
            Operator::NotEqual(value) => ("$ne", value.to_operand()),
            Operator::Greater(value) => ("$gt", value.to_operand()),
            Operator::GreaterOrEqual(value) => ("$gte", value.to_operand()),
            Operator::Less(value) => ("$lt", value.to_operand()),
            Operator::LessOrEqual(value) => ("$lte", value.to_operand()),
            Operator::In(values) => ("$in", list(values)),
            Operator::NotIn(values) => ("$nin", list(values)),
            Operator::All(values) => ("$all", list(values)),
            Operator::Exists(exists) => ("$exists", json!(exists)),
            Operator::Remainder(divisor, remainder) => ("$mod", json!([divisor, remainder])),
            Operator::Size(size) => ("$size", json!(size)),
            Operator::Begins(text) => ("$regex", json!(format!("^{text}"))),
            Operator::Not(operators) => ("$not", to_json(operators)),
            Operator::Element(operators) => ("$elemMatch", to_json(operators)),
            Operator::ElementObject(filter) => ("$elemMatch", filter.to_json()),
        };
        members.insert(name.to_owned(), argument);
    }
    Json::Object(members)
}

impl Operator {
    /// Of two operators with one name JSON has room for one.
    pub(crate) fn name(&self) -> String {
        let Json::Object(members) = to_json(std::slice::from_ref(self)) else {
            panic!("operators are an object");
        };
        members.keys().next().expect("one member").clone()
    }

    fn holds(&self, reached: &[Reached<'_>]) -> bool {
        let any = |test: &dyn Fn(Option<&Value>) -> bool| {
            reached.iter().any(|(value, is_searched)| match value {
                Some(Value::Array(elements)) if *is_searched => {
                    elements.iter().any(|element| test(Some(element))) || test(*value)
                }
                _ => test(*value),
            })
        };
        let array = |test: &dyn Fn(&[Value]) -> bool| {
            reached
                .iter()
                .any(|(value, _)| matches!(value, Some(Value::Array(elements)) if test(elements)))
        };
        let equal = |wanted: &Value| any(&|value| value.unwrap_or(&Value::Null).equals(wanted));
        let range = |wanted: &Value, orderings: &[Ordering]| {
            any(&|value| {
                let value = value.unwrap_or(&Value::Null);
                value.rank() == wanted.rank() && orderings.contains(&value.compare(wanted))
            })
        };
        match self {
            Operator::Equal(wanted) => equal(wanted),
            Operator::NotEqual(wanted) => !equal(wanted),
            Operator::Greater(wanted) => range(wanted, &[Ordering::Greater]),
            Operator::GreaterOrEqual(wanted) => {
                range(wanted, &[Ordering::Greater, Ordering::Equal])
            }
            Operator::Less(wanted) => range(wanted, &[Ordering::Less]),
            Operator::LessOrEqual(wanted) => range(wanted, &[Ordering::Less, Ordering::Equal]),
            Operator::In(wanted) => wanted.iter().any(equal),
            Operator::NotIn(wanted) => !wanted.iter().any(equal),
            Operator::All(wanted) => !wanted.is_empty() && wanted.iter().all(equal),
            Operator::Exists(exists) => any(&|value| value.is_some()) == *exists,
            Operator::Remainder(divisor, remainder) => any(&|value| match value {
                Some(number @ (Value::Integer(_) | Value::Fourths(_))) => {
                    number.fourths() / 4 % i128::from(*divisor) == i128::from(*remainder)
                }
                _ => false,
            }),
            Operator::Size(size) => array(&|elements| elements.len() == *size),
            Operator::Begins(start) => {
                any(&|value| matches!(value, Some(Value::Text(text)) if text.starts_with(start)))
            }
            Operator::Not(operators) => !operators.iter().all(|operator| operator.holds(reached)),
            Operator::Element(operators) => array(&|elements| {
                elements.iter().any(|element| {
                    let reached = [(Some(element), false)];
                    operators.iter().all(|operator| operator.holds(&reached))
                })
            }),
            Operator::ElementObject(filter) => array(&|elements| {
                elements
                    .iter()
                    .any(|element| matches!(element, Value::Object(_)) && filter.matches(element))
            }),
        }
    }
}

/// Paths with their direction, 1 or -1.
#[derive(Clone, Debug)]
pub(crate) struct Sort(pub(crate) Vec<(String, i64)>);

impl Sort {
    pub(crate) fn to_json(&self) -> Json {
        Json::Object(
            self.0
                .iter()
                .map(|(path, direction)| (path.clone(), json!(direction)))
                .collect(),
        )
    }

    pub(crate) fn compare(&self, one: &Value, two: &Value) -> Ordering {
        for (path, direction) in &self.0 {
            let steps: Vec<&str> = path.split('.').collect();
            let pick = |document| {
                let mut values = sorted_by(Some(document), &steps);
                values.sort_by(compare_sorted);
                let at = if *direction == 1 {
                    0
                } else {
                    values.len().saturating_sub(1)
                };
                values.get(at).cloned().unwrap_or(Some(Value::Null))
            };
            let ordering = compare_sorted(&pick(one), &pick(two));
            if ordering != Ordering::Equal {
                return if *direction == 1 {
                    ordering
                } else {
                    ordering.reverse()
                };
            }
        }
        Ordering::Equal
    }
}

/// The values that a document is sorted by; `None` stands for an empty array.
fn sorted_by(value: Option<&Value>, steps: &[&str]) -> Vec<Option<Value>> {
    match (value, steps) {
        (None, _) => vec![Some(Value::Null)],
        (Some(Value::Array(elements)), []) if elements.is_empty() => vec![None],
        (Some(Value::Array(elements)), []) => elements.iter().cloned().map(Some).collect(),
        (Some(value), []) => vec![Some(value.clone())],
        (Some(object @ Value::Object(_)), [step, rest @ ..]) => {
            sorted_by(object.member(step), rest)
        }
        (Some(Value::Array(elements)), [step, rest @ ..]) => match step.parse::<usize>() {
            Ok(at) => match elements.get(at) {
                Some(element) if rest.is_empty() => vec![Some(element.clone())],
                Some(element @ (Value::Object(_) | Value::Array(_))) => {
                    sorted_by(Some(element), rest)
                }
                _ => Vec::new(),
            },
            Err(_) => elements
                .iter()
                .flat_map(|element| match element {
                    Value::Object(_) => sorted_by(Some(element), steps),
                    _ => vec![Some(Value::Null)],
                })
                .collect(),
        },
        (Some(_), _) => vec![Some(Value::Null)],
    }
}

fn compare_sorted(one: &Option<Value>, two: &Option<Value>) -> Ordering {
    match (one, two) {
        (Some(one), Some(two)) => one.compare(two),
        (one, two) => one.is_some().cmp(&two.is_some()),
    }
}
