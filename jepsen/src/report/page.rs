//! The page of a run.

use std::fmt::Write as _;

use super::{Summary, document, escaped, verdict};
use crate::checker::Finding;

/// Findings that are spelt out.
const SHOWN_MAX: usize = 20;

/// The page, with these plots.
pub(super) fn page(
    summary: &Summary,
    wrong: &[Finding],
    plots: &[(&'static str, String)],
) -> String {
    let mut body = String::new();
    let _ = writeln!(
        body,
        "<h1>{}: {}</h1>",
        escaped(&summary.name),
        verdict(summary.verdict)
    );
    for line in summary.reasons.iter().chain(&summary.lacks) {
        let _ = writeln!(body, "<p>{}</p>", escaped(line));
    }
    let counts = summary.counts;
    let recovery = summary
        .recovery_ms
        .map_or("not reached".to_owned(), |ms| format!("{ms} ms"));
    let _ = writeln!(body, "<table>");
    for (name, value) in [
        ("workload", summary.workload.clone()),
        (
            "faults",
            format!("{} ({} times)", summary.faults.join(", "), counts.faults),
        ),
        (
            "operations",
            format!(
                "{} succeeded, {} refused, {} unknown",
                counts.ok, counts.fail, counts.info
            ),
        ),
        ("all nodes serve after the end of load and faults", recovery),
        ("seed", summary.seed.to_string()),
    ] {
        let _ = writeln!(body, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    }
    let _ = writeln!(
        body,
        "</table>\n<p>Again:</p><pre>{}</pre>",
        escaped(&summary.command)
    );
    findings(&mut body, wrong);
    for (title, svg) in plots {
        let _ = writeln!(body, "<h2>{title}</h2>\n{svg}");
    }
    let _ = writeln!(
        body,
        "<p>Bands are faults. All lines: <a href=\"history.jsonl\">history.jsonl</a>, <a href=\"history.edn\">history.edn</a>.</p>"
    );
    document(
        &format!("{} {}", summary.verdict.text(), summary.name),
        &body,
    )
}

fn findings(body: &mut String, wrong: &[Finding]) {
    for finding in wrong.iter().take(SHOWN_MAX) {
        let _ = writeln!(
            body,
            "<h2 class=\"FAIL\">{}</h2>\n<p>{}</p>",
            escaped(&finding.anomaly),
            escaped(&finding.what)
        );
        if !finding.witness.is_empty() {
            let _ = writeln!(body, "<pre>{}</pre>", escaped(&finding.witness.join("\n")));
        }
    }
    if wrong.len() > SHOWN_MAX {
        let _ = writeln!(
            body,
            "<p>{} more are not shown.</p>",
            wrong.len() - SHOWN_MAX
        );
    }
}
