//! What the lists say by themselves: who appended what, in which order, and what no order explains.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::Finding;
use super::{Step, Transaction};
use crate::history::Kind;

/// An element of a list.
type Element<'a> = (&'a str, &'a str);

/// The lists as far as they were read.
pub(super) struct Lists<'a> {
    transactions: &'a [Transaction<'a>],
    /// Who appended an element.
    writers: HashMap<Element<'a>, usize>,
    /// The longest list that was read of each key.
    orders: BTreeMap<&'a str, &'a [String]>,
}

impl<'a> Lists<'a> {
    pub(super) fn new(transactions: &'a [Transaction<'a>]) -> Lists<'a> {
        let mut lists = Lists {
            transactions,
            writers: HashMap::new(),
            orders: BTreeMap::new(),
        };
        for (at, transaction) in transactions.iter().enumerate() {
            for step in &transaction.steps {
                match step {
                    Step::Append { key, value } => {
                        lists.writers.insert((key, value), at);
                    }
                    Step::Read {
                        key,
                        list: Some(list),
                    } if transaction.operation.is_ok() => {
                        let longest = lists.orders.entry(key).or_default();
                        if list.len() > longest.len() {
                            *longest = list;
                        }
                    }
                    Step::Read { .. } => {}
                }
            }
        }
        lists
    }

    /// The order of each key's elements.
    pub(super) fn orders(&self) -> impl Iterator<Item = (&'a str, &'a [String])> {
        self.orders.iter().map(|(key, order)| (*key, *order))
    }

    /// Who appended `value` to `key`.
    pub(super) fn writer(&self, key: &str, value: &str) -> Option<usize> {
        self.writers.get(&(key, value)).copied()
    }

    /// All that no order of the transactions explains.
    pub(super) fn wrong(&self) -> Vec<Finding> {
        let read: Vec<_> = self
            .transactions
            .iter()
            .filter(|transaction| transaction.operation.is_ok())
            .collect();
        let mut wrong: Vec<Finding> = Vec::new();
        for transaction in read {
            wrong.extend(internal(transaction));
            for step in &transaction.steps {
                if let Step::Read {
                    key,
                    list: Some(list),
                } = step
                {
                    wrong.extend(self.read(transaction, key, list));
                }
            }
        }
        wrong.extend(self.lost());
        wrong
    }

    fn read(&self, reader: &Transaction<'_>, key: &str, list: &[String]) -> Vec<Finding> {
        let mut wrong = Vec::new();
        let mut seen = HashSet::new();
        for value in list {
            if !seen.insert(value) {
                wrong.push(Finding::new(
                    "duplicate",
                    format!("{key} has {value} twice"),
                    [reader.operation],
                ));
            }
            match self
                .writer(key, value)
                .map(|writer| &self.transactions[writer])
            {
                None => wrong.push(Finding::new(
                    "phantom",
                    format!("nobody appended {value} to {key}"),
                    [reader.operation],
                )),
                Some(writer) if writer.kind() == Kind::Fail => {
                    let what = format!("{key} shows {value}, which was refused without effect");
                    wrong.push(Finding::new(
                        "G1a",
                        what,
                        [writer.operation, reader.operation],
                    ));
                }
                Some(_) => {}
            }
        }
        let order = self.orders.get(key).copied().unwrap_or_default();
        if !order.starts_with(list) {
            let what = format!(
                "{key} was read as {list:?}, which does not begin the longest list {order:?}"
            );
            wrong.push(Finding::new("incompatible order", what, [reader.operation]));
        }
        wrong.extend(self.half(reader, key, list));
        wrong
    }

    /// A list that ends between two appends of one transaction.
    fn half(&self, reader: &Transaction<'_>, key: &str, list: &[String]) -> Option<Finding> {
        let last = list.last()?;
        let writer = &self.transactions[self.writer(key, last)?];
        let is_own = std::ptr::eq(writer, reader);
        let is_half = writer.appended(key).last().is_some_and(|end| end != last);
        let what =
            || format!("{key} shows {last} without what the same transaction appended behind it");
        (is_half && !is_own)
            .then(|| Finding::new("G1b", what(), [writer.operation, reader.operation]))
    }

    /// Acknowledged appends that the last read, which began later, does not show.
    fn lost(&self) -> Vec<Finding> {
        let mut last: HashMap<&str, (&Transaction<'_>, &[String])> = HashMap::new();
        for transaction in self
            .transactions
            .iter()
            .filter(|transaction| transaction.operation.is_ok())
        {
            for step in &transaction.steps {
                if let Step::Read {
                    key,
                    list: Some(list),
                } = step
                {
                    last.insert(key, (transaction, list));
                }
            }
        }
        let mut wrong = Vec::new();
        for writer in self
            .transactions
            .iter()
            .filter(|transaction| transaction.operation.is_ok())
        {
            for step in &writer.steps {
                let Step::Append { key, value } = step else {
                    continue;
                };
                let Some((reader, list)) = last.get(key.as_str()) else {
                    continue;
                };
                if writer.operation.is_before(reader.operation) && !list.contains(value) {
                    let what = format!(
                        "{value} was appended to {key}, and the last read does not show it"
                    );
                    wrong.push(Finding::new(
                        "lost",
                        what,
                        [writer.operation, reader.operation],
                    ));
                }
            }
        }
        wrong
    }
}

/// A transaction that does not see its own appends.
fn internal(transaction: &Transaction<'_>) -> Vec<Finding> {
    let mut known: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut whole: HashSet<&str> = HashSet::new();
    let mut wrong = Vec::new();
    for step in &transaction.steps {
        match step {
            Step::Append { key, value } => known.entry(key).or_default().push(value),
            Step::Read {
                key,
                list: Some(list),
            } => {
                let expected = known.entry(key).or_default();
                let fits = if whole.contains(key.as_str()) {
                    list.iter().eq(expected.iter())
                } else {
                    list.len() >= expected.len()
                        && list[list.len() - expected.len()..]
                            .iter()
                            .eq(expected.iter())
                };
                if !fits {
                    let what = format!(
                        "{key} was read as {list:?}, against the transaction's own {expected:?}"
                    );
                    wrong.push(Finding::new("internal", what, [transaction.operation]));
                }
                *expected = list.iter().map(String::as_str).collect();
                whole.insert(key);
            }
            Step::Read { .. } => {}
        }
    }
    wrong
}
