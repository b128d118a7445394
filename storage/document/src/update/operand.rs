//! Checking an argument against its operation and the type of its target, and bringing it into normal form.

use super::path::{Holder, Resolved, Target, is_unknown_member};
use super::{Kind, Operation, edit};
use crate::body::{kind_of, normalise, normalise_key, number, text};
use crate::error::Error;
use crate::json;
use crate::schema::{FieldType, Layout, Schema};

/// What an argument is checked against.
pub(super) struct Site<'a> {
    pub(super) operation: Operation,
    /// As the client wrote it, for messages.
    pub(super) path: &'a str,
    pub(super) layout: &'a Layout,
    pub(super) schema: &'a Schema,
}

/// The kind of the step and its operand, and how many levels the operand stands below the value at the path.
pub(super) type Fitted = (Kind, String, usize);

impl<'a> Site<'a> {
    /// Fits `raw` to what stands at the end of the path.
    ///
    /// # Errors
    /// [`Error::BadRequest`]: the operation is not for such values, or takes no such argument. [`Error::Type`]: the argument becomes a
    /// value of the document and does not fit its type.
    pub(super) fn fit(&self, raw: &str, resolved: &Resolved<'a>) -> Result<Fitted, Error> {
        match self.operation {
            Operation::Set => Ok((Kind::Json, self.value(raw, resolved.target)?, 0)),
            Operation::Replace => self.element_to_replace(raw, resolved),
            Operation::Inc
            | Operation::Dec
            | Operation::Mul
            | Operation::Min
            | Operation::Max
            | Operation::And
            | Operation::Or
            | Operation::Xor => Ok((
                self.number_kind(resolved.target)?,
                self.number(raw, resolved.target)?,
                0,
            )),
            Operation::CurrentDate => {
                self.no_argument(raw)?;
                let kind = match resolved.target {
                    Target::Json | Target::Typed(FieldType::DateTime) => Kind::DateTime,
                    Target::Typed(FieldType::Date) => Kind::Date,
                    Target::Typed(FieldType::Time) => Kind::Time,
                    Target::Typed(ty) => return Err(self.not_for(ty)),
                };
                Ok((kind, String::new(), 0))
            }
            Operation::Push | Operation::Unshift => {
                let element = match resolved.target {
                    Target::Typed(FieldType::List(element)) => Target::Typed(element),
                    Target::Json | Target::Typed(FieldType::JsonArray) => Target::Json,
                    Target::Typed(ty) => return Err(self.not_for(ty)),
                };
                Ok((Kind::Json, self.value(raw, element)?, 1))
            }
            Operation::Pop | Operation::Shift => {
                self.no_argument(raw)?;
                match resolved.target {
                    Target::Json | Target::Typed(FieldType::JsonArray | FieldType::List(_)) => {
                        Ok((Kind::Json, String::new(), 0))
                    }
                    Target::Typed(ty) => Err(self.not_for(ty)),
                }
            }
            Operation::Add => match resolved.target {
                Target::Typed(FieldType::Set(element)) => Ok((
                    element_kind(element),
                    self.value(raw, Target::Typed(element))?,
                    1,
                )),
                Target::Json | Target::Typed(FieldType::JsonArray) => {
                    Ok((Kind::Json, self.value(raw, Target::Json)?, 1))
                }
                Target::Typed(ty) => Err(self.not_for(ty)),
            },
            Operation::Remove => self.to_remove(raw, resolved.target),
            Operation::Put => {
                if !raw.starts_with('{') {
                    return Err(self.refuse(format!("expected an object, found {}", kind_of(raw))));
                }
                match resolved.target {
                    target @ (Target::Json
                    | Target::Typed(FieldType::JsonObject | FieldType::Map(..))) => {
                        Ok((Kind::Json, self.value(raw, target)?, 0))
                    }
                    Target::Typed(ty) => Err(self.not_for(ty)),
                }
            }
            Operation::Rename => Ok((Kind::Json, self.new_name(raw, resolved)?, 0)),
        }
    }

    /// The normal form of a value of the target.
    fn value(&self, raw: &str, target: Target<'a>) -> Result<String, Error> {
        match target {
            Target::Typed(ty) => normalise(raw, ty, self.layout, self.schema, self.path),
            Target::Json => {
                let mut out = Vec::with_capacity(raw.len());
                json::write_compact(&mut out, raw);
                // Only ASCII blanks were left out, so nothing is ever replaced here.
                Ok(String::from_utf8_lossy(&out).into_owned())
            }
        }
    }

    fn element_to_replace(&self, raw: &str, resolved: &Resolved<'a>) -> Result<Fitted, Error> {
        let is_index = resolved
            .path
            .last()
            .is_some_and(|last| edit::index(&last.name).is_some());
        match resolved.holder {
            Holder::List | Holder::Json if is_index => {
                Ok((Kind::Json, self.value(raw, resolved.target)?, 0))
            }
            _ => Err(self.refuse("the path must end with the index of a list".to_owned())),
        }
    }

    fn number_kind(&self, target: Target<'_>) -> Result<Kind, Error> {
        let is_bits = self.is_bits();
        match target {
            Target::Json => Ok(Kind::Json),
            Target::Typed(FieldType::Integer) => Ok(Kind::Integer),
            Target::Typed(FieldType::Double) if !is_bits => Ok(Kind::Double),
            Target::Typed(ty) => Err(self.not_for(ty)),
        }
    }

    fn is_bits(&self) -> bool {
        matches!(
            self.operation,
            Operation::And | Operation::Or | Operation::Xor
        )
    }

    fn number(&self, raw: &str, target: Target<'_>) -> Result<String, Error> {
        let Some(value) = number::double(raw) else {
            let found = match kind_of(raw) {
                "a number" => "one beyond the range of doubles",
                kind => kind,
            };
            return Err(self.refuse(format!("expected a number, found {found}")));
        };
        let is_integer = matches!(target, Target::Typed(FieldType::Integer));
        let is_whole = self.is_bits() || (is_integer && self.operation != Operation::Mul);
        if !is_whole {
            return Ok(raw.to_owned());
        }
        if self.is_bits() && value.fract() != 0.0 {
            return Err(self.refuse("expected an integer".to_owned()));
        }
        let whole = number::integer(raw)
            .ok_or_else(|| self.refuse("the number does not fit into 64 bits".to_owned()))?;
        Ok(whole.to_string())
    }

    fn to_remove(&self, raw: &str, target: Target<'a>) -> Result<Fitted, Error> {
        match target {
            Target::Typed(FieldType::List(element) | FieldType::Set(element)) => Ok((
                element_kind(element),
                self.value(raw, Target::Typed(element))?,
                0,
            )),
            Target::Typed(FieldType::Map(key, _)) => {
                let key = normalise_key(key, &self.key_text(raw)?, self.layout, self.schema)
                    .ok_or_else(|| self.refuse(format!("expected a key of {key}")))?;
                Ok((Kind::Json, string(&key), 0))
            }
            Target::Typed(FieldType::JsonObject) if text(raw).is_none() => Err(self.refuse(
                format!("expected the name of a member, found {}", kind_of(raw)),
            )),
            Target::Json | Target::Typed(FieldType::JsonObject | FieldType::JsonArray) => {
                Ok((Kind::Json, self.value(raw, Target::Json)?, 0))
            }
            Target::Typed(ty) => Err(self.not_for(ty)),
        }
    }

    /// A key as text: JSON writes those of numbers and booleans bare, and clients send whole objects for references.
    fn key_text(&self, raw: &str) -> Result<String, Error> {
        let text = match kind_of(raw) {
            "a number" | "a boolean" => Some(raw.to_owned()),
            _ => crate::body::id_text(raw).map(|text| text.into_owned()),
        };
        text.ok_or_else(|| self.refuse(format!("expected a key, found {}", kind_of(raw))))
    }

    /// The new name of a member: alone, or behind the path of what holds it.
    fn new_name(&self, raw: &str, resolved: &Resolved<'_>) -> Result<String, Error> {
        let name = text(raw)
            .ok_or_else(|| self.refuse(format!("expected a name, found {}", kind_of(raw))))?;
        let holder = self.path.split('.').take(resolved.path.len() - 1);
        let prefix: String = holder.flat_map(|part| [part, "."]).collect();
        let name = name.strip_prefix(&prefix).unwrap_or(&name);
        match resolved.holder {
            Holder::Json => Ok(string(name)),
            Holder::Map(key) => normalise_key(key, name, self.layout, self.schema)
                .map(|key| string(&key))
                .ok_or_else(|| self.refuse(format!("the new name is no key of {key}"))),
            Holder::Document if is_unknown_member(name, self.layout) => Ok(string(name)),
            Holder::Document => Err(self.refuse("the new name is a field of the class".to_owned())),
            Holder::Class | Holder::List => Err(self.refuse(
                "only keys of maps and members of JSON objects have names that change".to_owned(),
            )),
        }
    }

    fn no_argument(&self, raw: &str) -> Result<(), Error> {
        if raw == "null" {
            return Ok(());
        }
        Err(self.refuse(format!("expected null, found {}", kind_of(raw))))
    }

    fn not_for(&self, ty: &FieldType) -> Error {
        self.refuse(format!("it is not for values of {ty}"))
    }

    fn refuse(&self, why: String) -> Error {
        let path = json::excerpt(self.path);
        Error::BadRequest(format!("{} of {path:?}: {why}", self.operation))
    }
}

fn element_kind(element: &FieldType) -> Kind {
    if *element == FieldType::Double {
        Kind::Double
    } else {
        Kind::Json
    }
}

/// A text as JSON.
fn string(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    json::write_string(&mut out, text);
    // Escaping keeps characters whole, so nothing is ever replaced here.
    String::from_utf8_lossy(&out).into_owned()
}
