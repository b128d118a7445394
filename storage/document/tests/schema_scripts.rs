//! Runs the scripts in `tests/scripts`: each tells one story of a schema that changes. `UPDATE_GOLDENFILES=1` rewrites their outputs.
//!
//! Commands, each with `as=<caller>` for somebody else than root (`anonymous`, or the key of a user):
//!
//! - `post JSON`, `put JSON`: merge or replace the whole schema.
//! - `post_class NAME JSON`, `put_class NAME JSON`, `drop NAME`: the same for one class.
//! - `show [NAME]`: the classes that are not as a new database has them, or the one class.
//! - `layout NAME`: the members of a body in order.
//!
//! A change prints which classes it added, changed or removed; a refusal prints its kind and message.

#![allow(
    clippy::unwrap_used,
    reason = "a failing script should panic where it fails"
)]

mod support {
    pub(crate) mod scripts;
}

use std::error::Error;
use std::fmt::Write as _;

use document::SchemaError;
use document::acl::{Access, Principal};
use document::schema::{Change, Class, Schema};

use self::support::scripts;

#[test]
fn scripts() {
    scripts::run("scripts", || Runner {
        schema: Schema::system(),
    });
}

struct Runner {
    schema: Schema,
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let principal = caller(args.take_key("as"));
        let mut argument = || {
            args.next_pos()
                .map(str::to_owned)
                .ok_or("an argument is missing")
        };
        let next = match command.name.as_str() {
            "post" => changes(&argument()?)
                .and_then(|changes| Ok(self.schema.merge(&changes, &principal)?)),
            "put" => changes(&argument()?)
                .and_then(|changes| Ok(self.schema.replace(&changes, &principal)?)),
            "post_class" | "put_class" => {
                let (name, body) = (argument()?, argument()?);
                changes(&body).and_then(|changes| {
                    Ok(if command.name == "post_class" {
                        self.schema.merge_class(&name, &changes[0], &principal)?
                    } else {
                        self.schema.replace_class(&name, &changes[0], &principal)?
                    })
                })
            }
            "drop" => self
                .schema
                .drop_class(&argument()?, &principal)
                .map_err(document::Error::from),
            "show" => return Ok(self.show(args.next_pos())),
            "layout" => return self.layout(&argument()?),
            name => return Err(format!("unknown command {name}").into()),
        };
        Ok(match next {
            Ok(next) => {
                let summary = summary(&self.schema, &next);
                // What is stored must come back equal.
                let stored = serde_json::to_string(&next)?;
                assert_eq!(serde_json::from_str::<Schema>(&stored)?, next);
                self.schema = next;
                summary
            }
            Err(error) => refusal(&error),
        })
    }
}

impl Runner {
    fn show(&self, name: Option<&str>) -> String {
        let system = Schema::system();
        let classes = self.schema.classes().filter(|class| match name {
            Some(name) => class.name == name,
            None => system.class(&class.name) != Some(*class),
        });
        classes.map(describe).collect()
    }

    fn layout(&self, name: &str) -> Result<String, Box<dyn Error>> {
        let Some(layout) = self.schema.layout(name) else {
            return Ok(format!("{name} has no layout\n"));
        };
        let mut out = String::new();
        for slot in layout.shape().slots() {
            let read_only = if slot.read_only { " READONLY" } else { "" };
            writeln!(out, "{}: {}{read_only}", slot.name, slot.ty)?;
        }
        Ok(out)
    }
}

fn caller(name: Option<&str>) -> Principal {
    match name {
        None => Principal::root(),
        Some("anonymous") => Principal::anonymous(),
        Some(key) => Principal {
            user: Some(document::id::object_id("User", key)),
            roles: Vec::new(),
        },
    }
}

fn changes(body: &str) -> Result<Vec<Change>, document::Error> {
    Schema::parse_changes(body.as_bytes())
}

fn describe(class: &Class) -> String {
    let mut out = class.name.clone();
    if let Some(parent) = &class.super_class {
        write!(out, " < {parent}").unwrap();
    }
    if class.embedded {
        out.push_str(" (embedded)");
    }
    if class.is_open() {
        out.push_str(" (open)");
    }
    out.push('\n');
    for (operation, rules) in class.acl.iter() {
        write!(out, "  {operation}:").unwrap();
        for (reference, access) in rules.iter() {
            let sign = if access == Access::Allow { '+' } else { '-' };
            write!(out, " {sign}{reference}").unwrap();
        }
        out.push('\n');
    }
    let shown = class.to_json();
    for (name, field) in shown["fields"].as_object().unwrap() {
        assert_eq!(field["name"], name.as_str());
        writeln!(
            out,
            "  {}. {name} {} {}",
            field["order"],
            field["type"].as_str().unwrap(),
            field["flags"]
        )
        .unwrap();
    }
    if let Some(code) = &class.validation_code {
        writeln!(out, "  validated by: {code}").unwrap();
    }
    out
}

fn summary(before: &Schema, after: &Schema) -> String {
    let mut out = String::new();
    for class in after.classes() {
        let sign = match before.class(&class.name) {
            None => '+',
            Some(same) if same == class => continue,
            Some(_) => '~',
        };
        writeln!(out, "{sign} {}", class.name).unwrap();
    }
    for class in before
        .classes()
        .filter(|class| after.class(&class.name).is_none())
    {
        writeln!(out, "- {}", class.name).unwrap();
    }
    if out.is_empty() {
        "no change\n".to_owned()
    } else {
        out
    }
}

fn refusal(error: &document::Error) -> String {
    let kind = match error {
        document::Error::Schema(error) => match error {
            SchemaError::NotCompatible(_) => "NotCompatible",
            SchemaError::StillExists(_) => "StillExists",
            SchemaError::AlreadyExists(_) => "AlreadyExists",
            SchemaError::StillReferenced(_) => "StillReferenced",
            SchemaError::UnknownClass(_) => "UnknownClass",
            SchemaError::Invalid(_) => "Invalid",
            SchemaError::Denied(_) => "Denied",
        },
        document::Error::Syntax(_) => "Syntax",
        document::Error::Type { .. } => "Type",
        document::Error::BadRequest(_) => "BadRequest",
        document::Error::TooDeep { .. } => "TooDeep",
    };
    format!("{kind}: {error}\n")
}
