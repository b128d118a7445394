//! The classes of a database as schemas of the interface description.

use document::body::EXPIRES_AT;
use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, SchemaType, Type};
use utoipa::openapi::{
    ArrayBuilder, ComponentsBuilder, KnownFormat, Object, ObjectBuilder, Ref, RefOr, Schema,
    SchemaFormat,
};

/// What stands before the name of a class or type.
const PREFIX: &str = "/db/";
/// The class that all others with documents extend.
const ROOT_CLASS: &str = "/db/Object";

/// Adds one schema for each class.
pub(super) fn add(mut components: ComponentsBuilder, schema: &Value) -> ComponentsBuilder {
    let classes = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_embedded = |name: &str| {
        classes
            .iter()
            .any(|class| class["class"] == name && class["embedded"] == Value::Bool(true))
    };
    for class in classes {
        let Some(name) = class["class"].as_str() else {
            continue;
        };
        components = components.schema(component(name), of_class(class, &is_embedded));
    }
    components
}

/// The name of a class in the description.
fn component(class: &str) -> &str {
    class.strip_prefix(PREFIX).unwrap_or(class)
}

fn of_class(class: &Value, is_embedded: &dyn Fn(&str) -> bool) -> Schema {
    let mut object = ObjectBuilder::new();
    for (name, field) in class["fields"].as_object().into_iter().flatten() {
        let text = field["type"].as_str().unwrap_or_default();
        object = object.property(name, of_type(text, is_embedded));
    }
    if class["class"] == ROOT_CLASS {
        object = object.property(EXPIRES_AT, expiry());
    }
    match class["superClass"].as_str() {
        Some(parent) => utoipa::openapi::AllOfBuilder::new()
            .item(Ref::from_schema_name(component(parent)))
            .item(object)
            .build()
            .into(),
        None => object.build().into(),
    }
}

/// Metadata that a class may have a field in place of, so no descriptor shows it.
fn expiry() -> RefOr<Schema> {
    let object = nullable(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .description(Some(
            "when the document is deleted; absent: it stays as it is stored; null: never",
        ));
    Schema::Object(object.build()).into()
}

/// The schema of a field's type, by its text in the class descriptor.
fn of_type(text: &str, is_embedded: &dyn Fn(&str) -> bool) -> RefOr<Schema> {
    let name = text.strip_prefix(PREFIX).unwrap_or(text);
    if let Some(collection) = name.strip_prefix("collection.") {
        return of_collection(collection, is_embedded);
    }
    let object: Object = match name {
        "Boolean" => nullable(Type::Boolean).build(),
        "Integer" => nullable(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .build(),
        "Double" => nullable(Type::Number).build(),
        "String" | "File" => nullable(Type::String).build(),
        "DateTime" => nullable(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .build(),
        "Date" => nullable(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)))
            .build(),
        "Time" => nullable(Type::String)
            .format(Some(SchemaFormat::Custom("time".to_owned())))
            .build(),
        "GeoPoint" => nullable(Type::Object)
            .property("latitude", degrees(90.0))
            .property("longitude", degrees(180.0))
            .build(),
        "JsonObject" => nullable(Type::Object).build(),
        "JsonArray" => nullable(Type::Array).build(),
        _ if is_embedded(text) => return Ref::from_schema_name(name).into(),
        _ => nullable(Type::String)
            .description(Some(format!("the id of an object: {PREFIX}{name}/<key>")))
            .build(),
    };
    Schema::Object(object).into()
}

fn of_collection(text: &str, is_embedded: &dyn Fn(&str) -> bool) -> RefOr<Schema> {
    let (kind, parameters) = text.split_once('[').unwrap_or((text, ""));
    let parameters = parameters.trim_end_matches(']');
    if kind == "Map" {
        let value = parameters.split_once(',').map_or("", |(_, value)| value);
        let value = of_type(value.trim(), is_embedded);
        let object =
            nullable(Type::Object).additional_properties(Some(AdditionalProperties::RefOr(value)));
        return Schema::Object(object.build()).into();
    }
    let array = ArrayBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
        .items(of_type(parameters.trim(), is_embedded));
    Schema::Array(array.build()).into()
}

/// Every field may be null.
fn nullable(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null]))
}

fn degrees(most: f64) -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Number)
        .minimum(Some(-most))
        .maximum(Some(most))
        .build()
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_become_schemas() {
        let schema = json!([
            {"class": "/db/Object", "fields": {"id": {"name": "id", "type": "/db/String"}}},
            {"class": "/db/Address", "embedded": true, "fields": {"street": {"name": "street", "type": "/db/String"}}},
            {"class": "/db/Todo", "superClass": "/db/Object", "fields": {
                "n": {"name": "n", "type": "/db/Integer"},
                "home": {"name": "home", "type": "/db/Address"},
                "owner": {"name": "owner", "type": "/db/User"},
                "tags": {"name": "tags", "type": "/db/collection.Set[/db/String]"},
                "by": {"name": "by", "type": "/db/collection.Map[/db/String,/db/Double]"},
            }},
        ]);
        let components = add(ComponentsBuilder::new(), &schema).build();
        let found = serde_json::to_value(components).expect("JSON");
        let todo = &found["schemas"]["Todo"]["allOf"];
        assert_eq!(todo[0], json!({"$ref": "#/components/schemas/Object"}));
        let expiry = &found["schemas"]["Object"]["properties"][EXPIRES_AT];
        assert_eq!(expiry["format"], "date-time");
        let fields = &todo[1]["properties"];
        assert_eq!(
            fields["n"],
            json!({"type": ["integer", "null"], "format": "int64"})
        );
        assert_eq!(
            fields["home"],
            json!({"$ref": "#/components/schemas/Address"})
        );
        assert_eq!(fields["owner"]["type"], json!(["string", "null"]));
        assert_eq!(fields["tags"]["items"], json!({"type": ["string", "null"]}));
        let value = &fields["by"]["additionalProperties"];
        assert_eq!(value["type"], json!(["number", "null"]));
    }
}
