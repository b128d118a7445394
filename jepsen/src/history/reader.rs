//! Reads a history, refuses what cannot have happened, and pairs invocations with their ends.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{Event, History, Kind, Process};

/// An invocation with its end.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// How it began.
    pub invoke: &'a Event,
    /// How it ended, if it did.
    pub end: Option<&'a Event>,
    /// Line of the invocation, from 0.
    pub from: usize,
    /// Line of the end; `None`: it may take effect at any later time.
    pub to: Option<usize>,
}

impl<'a> Operation<'a> {
    /// Which function.
    pub fn f(&self) -> &'a str {
        &self.invoke.f
    }

    /// Which document; empty where none is named.
    pub fn key(&self) -> &'a str {
        self.invoke.key.as_deref().unwrap_or_default()
    }

    /// How it ended: [`Kind::Ok`], [`Kind::Fail`] or [`Kind::Info`].
    pub fn kind(&self) -> Kind {
        self.end.map_or(Kind::Info, |end| end.kind)
    }

    /// Whether it is known to have happened.
    pub fn is_ok(&self) -> bool {
        self.kind() == Kind::Ok
    }

    /// The value of its end if it happened, else of its invocation.
    pub fn value(&self) -> &'a Value {
        match self.end {
            Some(end) if end.kind == Kind::Ok => &end.value,
            Some(_) | None => &self.invoke.value,
        }
    }

    /// The version that it made or found.
    pub fn version(&self) -> Option<u64> {
        self.end.and_then(|end| end.more.version)
    }

    /// Whether it is known to have been over before `other` began.
    pub fn is_before(&self, other: &Operation<'_>) -> bool {
        self.to.is_some_and(|to| to < other.from)
    }

    /// For people: its lines, who asked whom for what, and what came of it.
    pub fn show(&self) -> String {
        let Process::Client(process) = &self.invoke.process else {
            return format!("line {}: {}", self.from + 1, self.f());
        };
        let end = match self.end {
            None => "no answer".to_owned(),
            Some(end) => {
                let version = end
                    .more
                    .version
                    .map(|version| format!(" at version {version}"));
                let why = end.error.as_ref().map(|error| format!(" ({error})"));
                let (version, why) = (version.unwrap_or_default(), why.unwrap_or_default());
                format!("{} {}{version}{why}", end.kind.text(), short(&end.value))
            }
        };
        let expect = self
            .invoke
            .more
            .expect
            .map(|expect| format!(" expecting version {expect}"));
        let node = self.invoke.node.as_deref().unwrap_or("?");
        format!(
            "line {}: process {process} at {node}: {} {} {}{} -> {end}",
            self.from + 1,
            self.f(),
            self.key(),
            short(&self.invoke.value),
            expect.unwrap_or_default(),
        )
    }
}

/// Characters of a value that are shown, half from its beginning and half from its end.
const SHOWN_MAX: usize = 160;

fn short(value: &Value) -> String {
    let text: Vec<char> = value.to_string().chars().collect();
    if text.len() <= SHOWN_MAX {
        return text.into_iter().collect();
    }
    let (begin, end) = (&text[..SHOWN_MAX / 2], &text[text.len() - SHOWN_MAX / 2..]);
    begin.iter().chain(&['…']).chain(end).collect()
}

impl History {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, a line is none of ours, or the lines make no history.
    pub fn read(path: &Path) -> anyhow::Result<History> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let events = (1..)
            .zip(BufReader::new(file).lines())
            .map(|(number, line)| {
                serde_json::from_str(&line?).with_context(|| format!("{}:{number}", path.display()))
            })
            .collect::<anyhow::Result<Vec<Event>>>()?;
        History::new(events).with_context(|| path.display().to_string())
    }

    /// A history of these lines.
    ///
    /// # Errors
    /// If they break an invariant of the module; the message names the line.
    pub fn new(events: Vec<Event>) -> anyhow::Result<History> {
        let mut open: HashMap<&Process, &Event> = HashMap::new();
        let mut ended: HashSet<&Process> = HashSet::new();
        let mut time = 0;
        for (number, event) in (1..).zip(&events) {
            ensure!(event.time >= time, "line {number}: time goes backwards");
            time = event.time;
            let process = &event.process;
            if let Process::Named(_) = process {
                let may = matches!(event.kind, Kind::Info | Kind::Event | Kind::Final);
                ensure!(may, "line {number}: only clients have operations");
                continue;
            }
            match event.kind {
                Kind::Event | Kind::Final => {}
                Kind::Invoke => {
                    ensure!(
                        !ended.contains(process),
                        "line {number}: process {process:?} ended with info"
                    );
                    let before = open.insert(process, event);
                    ensure!(
                        before.is_none(),
                        "line {number}: process {process:?} has an open operation"
                    );
                }
                Kind::Ok | Kind::Fail | Kind::Info => {
                    let Some(invoke) = open.remove(process) else {
                        bail!("line {number}: process {process:?} has no open operation");
                    };
                    let same = invoke.f == event.f && invoke.key == event.key;
                    ensure!(
                        same,
                        "line {number}: the end of another operation than process {process:?} began"
                    );
                    if event.kind == Kind::Info {
                        ended.insert(process);
                    }
                }
            }
        }
        Ok(History { events })
    }

    /// All operations of clients, in the order of their invocations.
    pub fn operations(&self) -> Vec<Operation<'_>> {
        let mut operations: Vec<Operation<'_>> = Vec::new();
        let mut open: HashMap<&Process, usize> = HashMap::new();
        for (line, event) in self.events.iter().enumerate() {
            match (&event.process, event.kind) {
                (Process::Named(_), _) | (_, Kind::Event | Kind::Final) => {}
                (process, Kind::Invoke) => {
                    open.insert(process, operations.len());
                    operations.push(Operation {
                        invoke: event,
                        end: None,
                        from: line,
                        to: None,
                    });
                }
                (process, kind) => {
                    let Some(operation) =
                        open.remove(process).and_then(|at| operations.get_mut(at))
                    else {
                        continue;
                    };
                    operation.end = Some(event);
                    // An unknown effect may still come: such an operation never ends.
                    operation.to = (kind != Kind::Info).then_some(line);
                }
            }
        }
        operations
    }

    /// What is there at the end, by `f`.
    pub fn finals<'a>(&'a self, f: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events
            .iter()
            .filter(move |event| event.kind == Kind::Final && event.f == f)
    }

    /// What was done to the cluster.
    pub fn faults(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| {
            matches!(&event.process, Process::Named(name) if name == Process::NEMESIS)
                && event.kind == Kind::Info
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Record, Recorder, to_edn};
    use super::*;

    fn line(process: &Value, kind: &str, time: u64) -> Event {
        let line = json!({"process": process, "type": kind, "f": "write", "key": "k", "value": 7, "time": time});
        serde_json::from_value(line).expect("a line")
    }

    fn history(lines: &[(u64, &str)]) -> anyhow::Result<History> {
        let lines = lines
            .iter()
            .zip(0..)
            .map(|((process, kind), time)| line(&json!(process), kind, time));
        History::new(lines.collect())
    }

    #[test]
    fn operations_know_their_lines_and_unknown_ones_never_end() {
        let history = history(&[
            (0, "invoke"),
            (1, "invoke"),
            (1, "ok"),
            (0, "info"),
            (2, "invoke"),
        ])
        .expect("well-formed");
        let operations = history.operations();
        let lines: Vec<_> = operations
            .iter()
            .map(|operation| (operation.from, operation.to))
            .collect();
        assert_eq!(lines, [(0, None), (1, Some(2)), (4, None)]);
        let kinds: Vec<_> = operations.iter().map(Operation::kind).collect();
        assert_eq!(kinds, [Kind::Info, Kind::Ok, Kind::Info]);
        assert!(
            operations[1].is_before(&operations[2]) && !operations[0].is_before(&operations[2])
        );
    }

    #[test]
    fn histories_that_cannot_be_are_refused() {
        for (lines, why) in [
            (&[(0, "invoke"), (0, "invoke")][..], "has an open operation"),
            (&[(0, "ok")], "has no open operation"),
            (
                &[(0, "invoke"), (0, "info"), (0, "invoke")],
                "ended with info",
            ),
        ] {
            let refused = history(lines).expect_err(why).to_string();
            assert!(refused.contains(why), "{refused}");
        }
        let backwards = vec![line(&json!(0), "invoke", 2), line(&json!(0), "ok", 1)];
        assert!(History::new(backwards).is_err());
        assert!(History::new(vec![line(&json!("nemesis"), "invoke", 0)]).is_err());
        let mut other = line(&json!(0), "ok", 1);
        other.f = "read".to_owned();
        assert!(History::new(vec![line(&json!(0), "invoke", 0), other]).is_err());
    }

    #[test]
    fn what_is_recorded_is_on_disk_at_once_and_read_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).expect("a file");
        let process = recorder.new_process();
        assert_ne!(process, recorder.new_process());
        let mut invoke = Record::new(process, Kind::Invoke, "cas");
        invoke.key = Some("k".to_owned());
        invoke.value = json!(7);
        invoke.node = Some("n1".to_owned());
        invoke.more.expect = Some(0);
        recorder.record(invoke.clone()).expect("written");
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(
            text.starts_with(
                r#"{"process":0,"type":"invoke","f":"cas","key":"k","value":7,"time":"#
            ),
            "{text}"
        );
        assert!(text.ends_with(",\"node\":\"n1\",\"expect\":0}\n"), "{text}");
        let mut fault = Record::new(Process::nemesis(), Kind::Info, "kill");
        fault.more.phase = Some("start".to_owned());
        recorder.record(fault).expect("written");
        let mut ok = Record {
            kind: Kind::Ok,
            ..invoke
        };
        ok.more.version = Some(1);
        recorder.record(ok).expect("written");
        let history = History::read(&path).expect("our own lines");
        assert_eq!(history.operations()[0].version(), Some(1));
        assert_eq!(history.faults().count(), 1);
        let edn = to_edn(&history);
        assert_eq!(edn.lines().count(), 3, "{edn}");
    }
}
