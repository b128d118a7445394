//! Which transaction must come before which, and whether that goes round in a circle.

use std::collections::VecDeque;

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::super::Finding;
use super::Transaction;
use super::lists::Lists;

/// Cycles that are shown.
const SHOWN_MAX: usize = 5;
/// Transactions of a knot from which a shortest cycle is looked for.
const STARTS_MAX: usize = 100;

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It appended the element before the other's.
    WriteWrite,
    /// The other read its element.
    WriteRead,
    /// It did not see the other's element.
    ReadWrite,
    /// It was over before the other began.
    Time,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Why::WriteWrite => "whose append is followed by that of",
            Why::WriteRead => "whose append is seen by",
            Why::ReadWrite => "which does not see the append of",
            Why::Time => "which was over before the beginning of",
        }
    }
}

/// A kind of cycle: of these reasons, with reads of overwritten things or without.
struct Level {
    name: &'static str,
    reasons: &'static [Why],
    overwritten: Overwritten,
}

/// How many [`Why::ReadWrite`] a cycle has.
enum Overwritten {
    /// As the reasons say: none, or any number.
    Any,
    One,
}

/// From the worst to the mildest; the first that is found is reported.
const LEVELS: [Level; 8] = [
    Level {
        name: "G0",
        reasons: &[Why::WriteWrite],
        overwritten: Overwritten::Any,
    },
    Level {
        name: "G1c",
        reasons: &[Why::WriteWrite, Why::WriteRead],
        overwritten: Overwritten::Any,
    },
    Level {
        name: "G-single",
        reasons: &[Why::WriteWrite, Why::WriteRead],
        overwritten: Overwritten::One,
    },
    Level {
        name: "G2",
        reasons: &[Why::WriteWrite, Why::WriteRead, Why::ReadWrite],
        overwritten: Overwritten::Any,
    },
    Level {
        name: "G0-realtime",
        reasons: &[Why::WriteWrite, Why::Time],
        overwritten: Overwritten::Any,
    },
    Level {
        name: "G1c-realtime",
        reasons: &[Why::WriteWrite, Why::WriteRead, Why::Time],
        overwritten: Overwritten::Any,
    },
    Level {
        name: "G-single-realtime",
        reasons: &[Why::WriteWrite, Why::WriteRead, Why::Time],
        overwritten: Overwritten::One,
    },
    Level {
        name: "G2-realtime",
        reasons: &[Why::WriteWrite, Why::WriteRead, Why::ReadWrite, Why::Time],
        overwritten: Overwritten::Any,
    },
];

/// The worst cycles of the history, each as short as can be.
pub(super) fn find(transactions: &[Transaction<'_>], lists: &Lists<'_>) -> Vec<Finding> {
    let order = Order::new(transactions, lists);
    for level in &LEVELS {
        let cycles = match level.overwritten {
            Overwritten::Any => order.cycles(level.reasons),
            Overwritten::One => order.cycles_with_one(level.reasons),
        };
        if !cycles.is_empty() {
            return cycles
                .iter()
                .take(SHOWN_MAX)
                .map(|cycle| explained(level.name, cycle, transactions))
                .collect();
        }
    }
    Vec::new()
}

fn explained(name: &str, cycle: &[(usize, Why)], transactions: &[Transaction<'_>]) -> Finding {
    let number = |at: usize| format!("line {}", transactions[at].operation.from + 1);
    let parts = cycle
        .iter()
        .map(|(at, why)| format!("{}, {}", number(*at), why.text()));
    let first = cycle.first().map(|(at, _)| number(*at)).unwrap_or_default();
    let what = format!("{} {first}", parts.collect::<Vec<_>>().join(" "));
    Finding::new(
        name,
        what,
        cycle.iter().map(|(at, _)| transactions[*at].operation),
    )
}

/// Who comes before whom, and why.
struct Order {
    after: Vec<Vec<(usize, Why)>>,
}

impl Order {
    fn new(transactions: &[Transaction<'_>], lists: &Lists<'_>) -> Order {
        let mut order = Order {
            after: vec![Vec::new(); transactions.len()],
        };
        for (key, elements) in lists.orders() {
            for pair in elements.windows(2) {
                order.join(
                    lists.writer(key, &pair[0]),
                    lists.writer(key, &pair[1]),
                    Why::WriteWrite,
                );
            }
        }
        for (at, reader) in transactions
            .iter()
            .enumerate()
            .filter(|(_, transaction)| transaction.operation.is_ok())
        {
            for (key, list) in reader.external_reads() {
                let last = list.last().and_then(|last| lists.writer(key, last));
                order.join(last, Some(at), Why::WriteRead);
                let elements = lists
                    .orders()
                    .find(|(of, _)| *of == key)
                    .map(|(_, elements)| elements);
                let next = elements.and_then(|elements| elements.get(list.len()));
                order.join(
                    Some(at),
                    next.and_then(|next| lists.writer(key, next)),
                    Why::ReadWrite,
                );
            }
        }
        order.join_in_time(transactions);
        order
    }

    fn join(&mut self, before: Option<usize>, after: Option<usize>, why: Why) {
        if let (Some(before), Some(after)) = (before, after)
            && before != after
            && !self.after[before].contains(&(after, why))
        {
            self.after[before].push((after, why));
        }
    }

    /// Every transaction comes after those that were over when it began; what follows from others is left out.
    fn join_in_time(&mut self, transactions: &[Transaction<'_>]) {
        let mut ends: Vec<(usize, usize, Option<usize>)> = Vec::new();
        for (at, transaction) in transactions.iter().enumerate() {
            let operation = transaction.operation;
            ends.push((operation.from, at, None));
            ends.extend(
                operation
                    .to
                    .filter(|_| operation.is_ok())
                    .map(|to| (to, at, Some(operation.from))),
            );
        }
        ends.sort_unstable();
        // Transactions that are over, and that no other one which is over came after.
        let mut front: Vec<(usize, usize)> = Vec::new();
        for (line, at, begun) in ends {
            match begun {
                None => {
                    for (before, _) in front.clone() {
                        self.join(Some(before), Some(at), Why::Time);
                    }
                }
                Some(from) => {
                    front.retain(|(_, over)| *over > from);
                    front.push((at, line));
                }
            }
        }
    }

    /// A shortest cycle of these reasons in each knot.
    fn cycles(&self, reasons: &[Why]) -> Vec<Vec<(usize, Why)>> {
        let mut cycles = Vec::new();
        for knot in self.knots(reasons) {
            let loops = knot
                .iter()
                .take(STARTS_MAX)
                .filter_map(|start| self.path(*start, *start, reasons));
            cycles.extend(loops.min_by_key(Vec::len));
        }
        cycles
    }

    /// Cycles with one read of something overwritten, and otherwise of these reasons.
    fn cycles_with_one(&self, reasons: &[Why]) -> Vec<Vec<(usize, Why)>> {
        let with = [reasons, &[Why::ReadWrite]].concat();
        let mut cycles = Vec::new();
        for knot in self.knots(&with) {
            let reads = knot.iter().flat_map(|at| {
                let overwritten = self.after[*at]
                    .iter()
                    .filter(|(_, why)| *why == Why::ReadWrite);
                overwritten.map(move |(next, why)| (*at, *next, *why))
            });
            let loops = reads.take(STARTS_MAX).filter_map(|(at, next, why)| {
                let mut cycle = vec![(at, why)];
                cycle.extend(self.path(next, at, reasons)?);
                Some(cycle)
            });
            cycles.extend(loops.min_by_key(Vec::len));
        }
        cycles
    }

    /// Sets of transactions that all come before each other.
    fn knots(&self, reasons: &[Why]) -> Vec<Vec<usize>> {
        let mut graph: DiGraph<(), ()> = DiGraph::new();
        let nodes: Vec<NodeIndex> = self.after.iter().map(|_| graph.add_node(())).collect();
        for (at, after) in self.after.iter().enumerate() {
            for (next, _) in after.iter().filter(|(_, why)| reasons.contains(why)) {
                graph.add_edge(nodes[at], nodes[*next], ());
            }
        }
        let components = tarjan_scc(&graph)
            .into_iter()
            .filter(|component| component.len() > 1);
        components
            .map(|component| component.into_iter().map(NodeIndex::index).collect())
            .collect()
    }

    /// The shortest way from `start` to `goal`, at least one step long, as the transactions left and why.
    fn path(&self, start: usize, goal: usize, reasons: &[Why]) -> Option<Vec<(usize, Why)>> {
        let mut came: Vec<Option<(usize, Why)>> = vec![None; self.after.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            for (next, why) in self.after[at]
                .iter()
                .filter(|(_, why)| reasons.contains(why))
            {
                if came[*next].is_some() {
                    continue;
                }
                came[*next] = Some((at, *why));
                if *next == goal {
                    return Some(unrolled(&came, start, goal));
                }
                queue.push_back(*next);
            }
        }
        None
    }
}

fn unrolled(came: &[Option<(usize, Why)>], start: usize, goal: usize) -> Vec<(usize, Why)> {
    let mut path = Vec::new();
    let mut at = goal;
    while let Some((before, why)) = came[at] {
        path.push((before, why));
        at = before;
        if at == start {
            break;
        }
    }
    path.reverse();
    path
}
