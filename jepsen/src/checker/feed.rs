//! Feeds: every acknowledged write reaches every subscriber at least once, versions of a document in order, and nothing
//! arrives that was not written.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Finding, Findings, text};
use crate::history::{Event, History, Kind, Operation};

/// A document's version.
type At<'a> = (&'a str, u64);

/// Judges writes with versions by the `feed` events; each subscriber says with `feed-end` up to when it listened.
pub fn check(history: &History) -> Findings {
    let operations = history.operations();
    let writes: Vec<&Operation<'_>> = operations
        .iter()
        .filter(|operation| matches!(operation.f(), "write" | "cas" | "delete"))
        .collect();
    let mut subscribers: BTreeMap<&str, Subscriber<'_>> = BTreeMap::new();
    for event in history
        .events()
        .iter()
        .filter(|event| event.kind == Kind::Event)
    {
        let subscriber = subscribers
            .entry(event.more.sub.as_deref().unwrap_or_default())
            .or_default();
        match event.f.as_str() {
            "feed" => subscriber.received.push(event),
            "feed-end" => subscriber.upto = event.more.upto,
            _ => {}
        }
    }
    let mut findings = Findings::default();
    if subscribers.is_empty() {
        findings.undecided.push("nobody listened".to_owned());
    }
    for (name, mut subscriber) in subscribers {
        subscriber.received.sort_by_key(|event| event.more.seq);
        findings.wrong.extend(subscriber.lost(name, &writes));
        findings.wrong.extend(subscriber.out_of_order(name));
        findings.wrong.extend(subscriber.phantoms(name, &writes));
        if subscriber.upto.is_none() {
            findings
                .undecided
                .push(format!("{name} did not say up to when it listened"));
        }
    }
    findings
}

#[derive(Default)]
struct Subscriber<'a> {
    received: Vec<&'a Event>,
    upto: Option<u64>,
}

fn at(event: &Event) -> Option<At<'_>> {
    Some((event.key.as_deref()?, event.more.version?))
}

impl Subscriber<'_> {
    fn lost(&self, name: &str, writes: &[&Operation<'_>]) -> Vec<Finding> {
        let received: HashSet<At<'_>> =
            self.received.iter().filter_map(|event| at(event)).collect();
        let in_time = |write: &&&Operation<'_>| {
            let end = write.end.map(|end| end.time);
            write.is_ok() && end.zip(self.upto).is_some_and(|(end, upto)| end <= upto)
        };
        let missing = writes.iter().filter(in_time).filter(|write| {
            write
                .version()
                .is_some_and(|version| !received.contains(&(write.key(), version)))
        });
        missing
            .map(|write| {
                Finding::new(
                    "lost event",
                    format!("{name} was never told of it"),
                    [*write],
                )
            })
            .collect()
    }

    /// A version that comes for the first time is above all before it; what came before may come again.
    fn out_of_order(&self, name: &str) -> Vec<Finding> {
        let mut seen: HashSet<At<'_>> = HashSet::new();
        let mut highest: HashMap<&str, u64> = HashMap::new();
        let mut wrong = Vec::new();
        for (key, version) in self.received.iter().filter_map(|event| at(event)) {
            let is_new = seen.insert((key, version));
            let before = highest.entry(key).or_default();
            if is_new && version < *before {
                let what = format!(
                    "{name} was told of version {version} of {key} only after version {before}"
                );
                wrong.push(Finding::new("out of order", what, []));
            }
            *before = version.max(*before);
        }
        wrong
    }

    fn phantoms(&self, name: &str, writes: &[&Operation<'_>]) -> Vec<Finding> {
        let known: HashMap<At<'_>, &Operation<'_>> = writes
            .iter()
            .filter(|write| write.is_ok())
            .filter_map(|write| Some(((write.key(), write.version()?), *write)))
            .collect();
        let may_be: HashSet<(&str, String)> = writes
            .iter()
            .filter(|write| write.kind() != Kind::Fail)
            .map(|write| (write.key(), text(&write.invoke.value)))
            .collect();
        let mut wrong = Vec::new();
        for event in &self.received {
            let Some((key, version)) = at(event) else {
                continue;
            };
            match known.get(&(key, version)) {
                Some(write) if text(&write.invoke.value) != text(&event.value) => {
                    let what = format!(
                        "{name} was told {} of version {version} of {key}",
                        event.value
                    );
                    wrong.push(Finding::new("wrong event", what, [*write]));
                }
                Some(_) => {}
                None if !may_be.contains(&(key, text(&event.value))) => {
                    let what = format!(
                        "{name} was told {} of {key}, which nobody wrote",
                        event.value
                    );
                    wrong.push(Finding::new("phantom event", what, []));
                }
                None => {}
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{anomalies, history};
    use super::*;

    /// Writes 10 and 20 to `k`, then what one subscriber received: versions with values.
    fn received(events: &[(u64, u64)]) -> Vec<Value> {
        let mut lines = Vec::new();
        for version in 1..=2 {
            let line = |kind: &str| json!({"process": 0, "type": kind, "f": "write", "key": "k", "value": 10 * version, "version": version});
            lines.extend([line("invoke"), line("ok")]);
        }
        for (seq, (version, value)) in events.iter().enumerate() {
            lines.push(json!({"process": "s", "type": "event", "f": "feed", "sub": "s", "seq": seq, "key": "k", "version": version, "value": value}));
        }
        lines.push(
            json!({"process": "s", "type": "event", "f": "feed-end", "sub": "s", "upto": 1_000}),
        );
        lines
    }

    #[test]
    fn everything_at_least_once_in_order_and_nothing_else() {
        for (events, anomaly) in [
            (&[(1, 10), (2, 20)][..], &[][..]),
            (&[(1, 10), (2, 20), (1, 10), (2, 20)], &[]),
            (&[(1, 10)], &["lost event"]),
            (&[(2, 20), (1, 10)], &["out of order"]),
            (&[(1, 10), (2, 10)], &["wrong event"]),
            (&[(1, 10), (2, 20), (3, 99)], &["phantom event"]),
        ] {
            assert_eq!(
                anomalies(&check(&history(&received(events)))),
                anomaly,
                "{events:?}"
            );
        }
    }

    #[test]
    fn a_subscriber_without_an_end_is_no_answer() {
        let lines = received(&[(1, 10)]);
        let findings = check(&history(&lines[..lines.len() - 1]));
        assert_eq!((findings.wrong.len(), findings.undecided.len()), (0, 1));
    }
}
