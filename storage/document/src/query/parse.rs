//! Reading filters: which operators there are, and what form their arguments have.

use serde_json::{Map, Value as Json};

use super::expression::{Expression, Relation, Test};
use super::geo::{self, Near, Region};
use super::path::{Path, Projection};
use super::pattern::Pattern;
use super::value::{Kind, Value};
use super::{Error, Limits, literal, number};
use crate::json::excerpt;
use crate::schema::Layout;

/// Reads one filter and collects what is asked of the document as a whole.
pub(super) struct Parser<'a> {
    layout: &'a Layout,
    limits: &'a Limits,
    pub(super) projection: Projection,
    /// The path and point of `$nearSphere`.
    pub(super) near: Option<(Path, geo::Point)>,
    conditions: usize,
    regexes: usize,
}

/// Where a condition stands.
#[derive(Clone, Copy)]
struct Place<'p> {
    /// The path of the array whose elements are meant; `None` in the document itself.
    element_of: Option<&'p Path>,
    /// Whether the condition must hold for the whole to hold, so that it can also give an order.
    is_required: bool,
}

const TOP: Place<'static> = Place {
    element_of: None,
    is_required: true,
};

impl<'p> Place<'p> {
    fn optional(self) -> Place<'p> {
        Place {
            is_required: false,
            ..self
        }
    }
}

fn inside(path: &Path) -> Place<'_> {
    Place {
        element_of: Some(path),
        is_required: false,
    }
}

impl<'a> Parser<'a> {
    pub(super) fn new(layout: &'a Layout, limits: &'a Limits) -> Parser<'a> {
        Parser {
            layout,
            limits,
            projection: Projection::default(),
            near: None,
            conditions: 0,
            regexes: 0,
        }
    }

    /// The filter as a whole.
    pub(super) fn document(&mut self, json: &Json) -> Result<Expression, Error> {
        self.conditions_of(json, TOP)
    }

    /// An object of conditions, all of which must hold.
    fn conditions_of(&mut self, json: &Json, place: Place<'_>) -> Result<Expression, Error> {
        let members = json
            .as_object()
            .ok_or_else(|| syntax("a filter must be a JSON object"))?;
        let mut parts = Vec::with_capacity(members.len());
        for (name, argument) in members {
            parts.push(match name.as_str() {
                "$and" => Expression::all(self.list(name, argument, place)?),
                "$or" => Expression::Or(self.list(name, argument, place.optional())?),
                "$nor" => Expression::Or(self.list(name, argument, place.optional())?).not(),
                "$comment" => Expression::always(),
                name if name.starts_with('$') => return Err(unknown(name)),
                name => {
                    let path = self.path(name, place)?;
                    self.field(&path, argument, place)?
                }
            });
        }
        Ok(Expression::all(parts))
    }

    fn list(
        &mut self,
        name: &str,
        argument: &Json,
        place: Place<'_>,
    ) -> Result<Vec<Expression>, Error> {
        let parts = argument
            .as_array()
            .filter(|parts| !parts.is_empty())
            .ok_or_else(|| syntax(&format!("{name} needs a list of filters, not an empty one")))?;
        parts
            .iter()
            .map(|part| {
                self.count()?;
                self.conditions_of(part, place)
            })
            .collect()
    }

    fn path(&mut self, text: &str, place: Place<'_>) -> Result<Path, Error> {
        match place.element_of {
            None => Path::of_document(text, self.layout, &mut self.projection, self.limits),
            Some(outer) => Path::of_element(Some(text), outer, self.layout, self.limits),
        }
    }

    /// A field with a value to be equal to, or with operators.
    fn field(
        &mut self,
        path: &Path,
        argument: &Json,
        place: Place<'_>,
    ) -> Result<Expression, Error> {
        match operators(argument) {
            Some(operators) => self.operators(path, operators, place),
            None => {
                self.count()?;
                self.compare(path, Relation::Equal, argument)
            }
        }
    }

    fn operators(
        &mut self,
        path: &Path,
        operators: &Map<String, Json>,
        place: Place<'_>,
    ) -> Result<Expression, Error> {
        let mut parts = Vec::with_capacity(operators.len());
        for (name, argument) in operators {
            self.count()?;
            let part = match name.as_str() {
                "$eq" => self.compare(path, Relation::Equal, argument)?,
                "$ne" => self.compare(path, Relation::Equal, argument)?.not(),
                "$gt" => self.compare(path, Relation::Greater, argument)?,
                "$gte" => self.compare(path, Relation::GreaterOrEqual, argument)?,
                "$lt" => self.compare(path, Relation::Less, argument)?,
                "$lte" => self.compare(path, Relation::LessOrEqual, argument)?,
                "$in" => self.one_of(path, name, argument)?,
                "$nin" => self.one_of(path, name, argument)?.not(),
                "$all" => self.all(path, argument)?,
                "$exists" => {
                    let exists = on(path, Test::Exists);
                    if truth(argument)? {
                        exists
                    } else {
                        exists.not()
                    }
                }
                "$mod" => remainder(path, argument)?,
                "$regex" => self.pattern(path, argument, operators.get("$options"))?,
                "$options" if operators.contains_key("$regex") => continue,
                "$options" => return Err(syntax("$options without $regex")),
                "$size" => size(path, argument)?,
                "$type" => kinds(path, argument)?,
                "$not" => {
                    let Some(operators) = self::operators(argument) else {
                        return Err(syntax("$not needs an object of operators"));
                    };
                    self.operators(path, operators, place.optional())?.not()
                }
                "$elemMatch" => self.element(path, argument)?,
                "$nearSphere" | "$near" => self.near(path, argument, place)?,
                "$geoWithin" => on(path, Test::Within(Region::of_json(argument, self.limits)?)),
                "$maxDistance" | "$minDistance" => {
                    return Err(Error::Unsupported(format!(
                        "{name} beside $nearSphere: it belongs inside"
                    )));
                }
                name => return Err(unknown(name)),
            };
            parts.push(part);
        }
        Ok(Expression::all(parts))
    }

    fn compare(
        &self,
        path: &Path,
        relation: Relation,
        argument: &Json,
    ) -> Result<Expression, Error> {
        let value = literal::read(argument, path, self.layout)?;
        Ok(on(path, Test::Compare(relation, value)))
    }

    fn values<'j>(&self, name: &str, argument: &'j Json) -> Result<&'j [Json], Error> {
        let values = argument
            .as_array()
            .ok_or_else(|| syntax(&format!("{name} needs a list of values")))?;
        if values.len() > self.limits.in_max {
            return Err(Error::Limit {
                what: "values of $in, $nin or $all",
                limit: self.limits.in_max,
            });
        }
        Ok(values)
    }

    fn one_of(&self, path: &Path, name: &str, argument: &Json) -> Result<Expression, Error> {
        let mut values = self
            .values(name, argument)?
            .iter()
            .map(|value| literal::read(value, path, self.layout))
            .collect::<Result<Vec<Value>, Error>>()?;
        values.sort_unstable();
        values.dedup();
        Ok(on(path, Test::In(values)))
    }

    fn all(&mut self, path: &Path, argument: &Json) -> Result<Expression, Error> {
        let values = self.values("$all", argument)?;
        if values.is_empty() {
            return Ok(Expression::Or(Vec::new()));
        }
        let parts = values
            .iter()
            .map(
                |value| match value.as_object().filter(|value| value.len() == 1) {
                    Some(object) if object.contains_key("$elemMatch") => {
                        self.count()?;
                        self.element(path, &object["$elemMatch"])
                    }
                    _ => self.compare(path, Relation::Equal, value),
                },
            )
            .collect::<Result<Vec<Expression>, Error>>()?;
        Ok(Expression::all(parts))
    }

    fn pattern(
        &mut self,
        path: &Path,
        argument: &Json,
        options: Option<&Json>,
    ) -> Result<Expression, Error> {
        self.regexes += 1;
        if self.regexes > self.limits.regexes_max {
            return Err(Error::Limit {
                what: "regular expressions of a filter",
                limit: self.limits.regexes_max,
            });
        }
        let text = |json: &'_ Json, name: &str| {
            json.as_str()
                .map(str::to_owned)
                .ok_or_else(|| syntax(&format!("{name} needs a text")))
        };
        let options = options.map_or(Ok(String::new()), |json| text(json, "$options"))?;
        let pattern = Pattern::new(&text(argument, "$regex")?, &options, self.limits)?;
        Ok(on(path, Test::Matches(pattern)))
    }

    /// `$elemMatch`: with operators for the elements themselves, else with a filter for elements that are objects.
    fn element(&mut self, path: &Path, argument: &Json) -> Result<Expression, Error> {
        if !argument.is_object() {
            return Err(syntax("$elemMatch needs an object"));
        }
        let is_logical = |name: &str| matches!(name, "$and" | "$or" | "$nor" | "$comment");
        let test = match operators(argument) {
            Some(operators) if !operators.keys().all(|name| is_logical(name)) => {
                let element = Path::of_element(None, path, self.layout, self.limits)?;
                let condition = self.operators(&element, operators, inside(path))?;
                Test::Element(Box::new(condition))
            }
            _ => Test::ElementObject(Box::new(self.conditions_of(argument, inside(path))?)),
        };
        Ok(on(path, test))
    }

    fn near(
        &mut self,
        path: &Path,
        argument: &Json,
        place: Place<'_>,
    ) -> Result<Expression, Error> {
        if !place.is_required || self.near.is_some() {
            return Err(Error::Unsupported(
                "$nearSphere inside of another operator than $and, or twice".to_owned(),
            ));
        }
        let near = Near::of_json(argument)?;
        self.near = Some((path.clone(), near.point));
        Ok(on(path, Test::Near(near)))
    }

    fn count(&mut self) -> Result<(), Error> {
        self.conditions += 1;
        if self.conditions > self.limits.conditions_max {
            return Err(Error::Limit {
                what: "conditions of a filter",
                limit: self.limits.conditions_max,
            });
        }
        Ok(())
    }
}

/// The members if the object is one of operators, not a value. `{"$date":…}` is a value.
fn operators(json: &Json) -> Option<&Map<String, Json>> {
    let members = json.as_object()?;
    let (first, _) = members.iter().next()?;
    (first.starts_with('$') && !literal::is_date(members)).then_some(members)
}

fn on(path: &Path, test: Test) -> Expression {
    Expression::On(path.clone(), test)
}

fn truth(json: &Json) -> Result<bool, Error> {
    match json {
        Json::Bool(truth) => Ok(*truth),
        Json::Number(number) => Ok(number.as_f64() != Some(0.0)),
        _ => Err(syntax("$exists needs true or false")),
    }
}

fn remainder(path: &Path, argument: &Json) -> Result<Expression, Error> {
    let malformed = || syntax("$mod needs [divisor,remainder], two numbers of 64 bits");
    let Some([divisor, remainder]) = argument.as_array().map(Vec::as_slice) else {
        return Err(malformed());
    };
    let integer = |json: &Json| {
        json.as_number()
            .and_then(number::Number::of_json)
            .and_then(number::Number::truncated)
            .ok_or_else(malformed)
    };
    match (integer(divisor)?, integer(remainder)?) {
        (0, _) => Err(syntax("$mod with divisor 0")),
        (divisor, remainder) => Ok(on(path, Test::Remainder(divisor, remainder))),
    }
}

fn size(path: &Path, argument: &Json) -> Result<Expression, Error> {
    let size = argument
        .as_number()
        .and_then(number::Number::of_json)
        .and_then(|number| match number {
            number::Number::Integer(size) => usize::try_from(size).ok(),
            number::Number::Double(_) => None,
        })
        .ok_or_else(|| syntax("$size needs a whole number, not below 0"))?;
    Ok(on(path, Test::Size(size)))
}

/// `$type` by MongoDB's names and numbers, as far as values here have such kinds. Numbers are of one kind.
fn kinds(path: &Path, argument: &Json) -> Result<Expression, Error> {
    let kind = |json: &Json| {
        Ok(match (json.as_str(), json.as_i64()) {
            (Some("null"), _) | (_, Some(10)) => Kind::Null,
            (Some("number"), _) => Kind::Number,
            (Some("string"), _) | (_, Some(2)) => Kind::Text,
            (Some("object"), _) | (_, Some(3)) => Kind::Object,
            (Some("array"), _) | (_, Some(4)) => Kind::Array,
            (Some("bool"), _) | (_, Some(8)) => Kind::Boolean,
            (Some("date"), _) | (_, Some(9)) => Kind::Moment,
            _ => {
                return Err(Error::Unsupported(format!(
                    "$type {}: expected null, number, string, object, array, bool or date",
                    excerpt(&json.to_string())
                )));
            }
        })
    };
    let kinds = match argument {
        Json::Array(names) => names
            .iter()
            .map(kind)
            .collect::<Result<Vec<Kind>, Error>>()?,
        one => vec![kind(one)?],
    };
    Ok(on(path, Test::Kinds(kinds)))
}

fn syntax(message: &str) -> Error {
    Error::Syntax(message.to_owned())
}

fn unknown(name: &str) -> Error {
    Error::Unsupported(format!("operator {} is not supported", excerpt(name)))
}
