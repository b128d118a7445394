//! The page over all runs.

use std::fmt::Write as _;

use super::{Summary, document, escaped, verdict};

/// One row a run.
pub(super) fn page(runs: &[Summary]) -> String {
    let mut body = String::from(
        "<h1>All runs</h1>\n<table><tr><th>workload</th><th>faults</th><th>verdict</th><th>succeeded</th><th>refused</th>\
         <th>unknown</th><th>faults done</th><th>serves again after</th><th>seed</th></tr>\n",
    );
    for run in runs {
        let counts = run.counts;
        let recovery = run
            .recovery_ms
            .map_or(String::new(), |ms| format!("{ms} ms"));
        let _ = writeln!(
            body,
            "<tr><td><a href=\"{}/report.html\">{}</a></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{recovery}</td><td>{}</td></tr>",
            escaped(&run.name),
            escaped(&run.workload),
            escaped(&run.faults.join(", ")),
            verdict(run.verdict),
            counts.ok,
            counts.fail,
            counts.info,
            counts.faults,
            run.seed,
        );
    }
    let ok: usize = runs.iter().map(|run| run.counts.ok).sum();
    let _ = writeln!(
        body,
        "</table>\n<p>{} runs, {ok} successful operations.</p>",
        runs.len()
    );
    document("All runs", &body)
}
