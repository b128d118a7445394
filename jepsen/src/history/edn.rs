//! The same history as Jepsen's own tools read it: one EDN map a line.
//!
//! Jepsen knows the types `invoke`, `ok`, `fail` and `info` alone. An `event` becomes an `info` of the process
//! `:event`; a `final` becomes a read by a process of its own.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{Event, History, Kind, Process};

/// The history as EDN.
pub fn to_edn(history: &History) -> String {
    let numbers = history
        .events()
        .iter()
        .filter_map(|event| match event.process {
            Process::Client(number) => Some(number),
            Process::Named(_) => None,
        });
    let reader = numbers.max().map_or(0, |highest| highest + 1);
    let mut edn = String::new();
    for event in history.events() {
        let mut line = event.clone();
        match event.kind {
            Kind::Invoke | Kind::Ok | Kind::Fail | Kind::Info => {}
            Kind::Event => {
                line.kind = Kind::Info;
                line.process = Process::Named("event".to_owned());
            }
            Kind::Final => {
                line.process = Process::Client(reader);
                line.f = "read".to_owned();
                write_line(
                    &mut edn,
                    &Event {
                        kind: Kind::Invoke,
                        value: Value::Null,
                        ..line.clone()
                    },
                );
                line.kind = Kind::Ok;
            }
        }
        write_line(&mut edn, &line);
    }
    edn
}

fn write_line(edn: &mut String, event: &Event) {
    // An event is made of what JSON has, so this gives an object.
    let Ok(Value::Object(members)) = serde_json::to_value(event) else {
        return;
    };
    edn.push('{');
    for (at, (name, value)) in members.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(edn, "{comma}:{name} ");
        match (name.as_str(), value) {
            ("process" | "type" | "f", Value::String(word)) => edn.push_str(&keyword(word)),
            ("value", Value::Array(operations)) if event.f == "txn" => {
                write_transaction(edn, operations)
            }
            _ => write_value(edn, value),
        }
    }
    edn.push_str("}\n");
}

fn keyword(word: &str) -> String {
    format!(":{word}")
}

/// Micro-operations begin with a keyword: `[:append "k" 1]`.
fn write_transaction(edn: &mut String, operations: &[Value]) {
    write_all(edn, operations, |edn, operation| match operation {
        Value::Array(parts) => write_all(edn, parts, |edn, part| match part {
            Value::String(word) if word == "append" || word == "r" => edn.push_str(&keyword(word)),
            part => write_value(edn, part),
        }),
        other => write_value(edn, other),
    });
}

fn write_all(edn: &mut String, values: &[Value], write: impl Fn(&mut String, &Value)) {
    edn.push('[');
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            edn.push(' ');
        }
        write(edn, value);
    }
    edn.push(']');
}

fn write_value(edn: &mut String, value: &Value) {
    match value {
        Value::Null => edn.push_str("nil"),
        // Strings, numbers and truth values are written as in JSON.
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let _ = write!(edn, "{value}");
        }
        Value::Array(values) => write_all(edn, values, write_value),
        Value::Object(members) => write_map(edn, members),
    }
}

fn write_map(edn: &mut String, members: &Map<String, Value>) {
    edn.push('{');
    for (at, (name, value)) in members.iter().enumerate() {
        let space = if at == 0 { "" } else { " " };
        let _ = write!(edn, "{space}{} ", Value::from(name.as_str()));
        write_value(edn, value);
    }
    edn.push('}');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_maps_with_keywords() {
        let lines = [
            json!({"process": 3, "type": "invoke", "f": "txn", "value": [["append", "a", 1], ["r", "b", null]], "time": 5}),
            json!({"process": "nemesis", "type": "info", "f": "kill", "value": {"nodes": ["n1"]}, "time": 6, "phase": "start"}),
            json!({"process": "final", "type": "final", "f": "set", "value": [1, 2], "time": 7}),
        ];
        let events = lines.map(|line| serde_json::from_value(line).expect("a line"));
        let edn = to_edn(&History::new(events.to_vec()).expect("well-formed"));
        let expected = [
            r#"{:process 3, :type :invoke, :f :txn, :value [[:append "a" 1] [:r "b" nil]], :time 5}"#,
            r#"{:process :nemesis, :type :info, :f :kill, :value {"nodes" ["n1"]}, :time 6, :phase "start"}"#,
            "{:process 4, :type :invoke, :f :read, :value nil, :time 7}",
            "{:process 4, :type :ok, :f :read, :value [1 2], :time 7}",
        ];
        assert_eq!(edn.lines().collect::<Vec<_>>(), expected);
    }
}
