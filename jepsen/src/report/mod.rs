//! What people read: a page for each run and one over all runs. Both hold all they show; nothing is fetched.

mod matrix;
mod page;
mod plot;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::checker::Finding;
use crate::checker::verdict::{Counts, Verdict};
use crate::history::{History, to_edn};

/// The file with a run's [`Summary`].
const SUMMARY: &str = "summary.json";

/// A run in short.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The folder's name.
    pub name: String,
    /// What clients did.
    pub workload: String,
    /// What was done to the cluster.
    pub faults: Vec<String>,
    /// What repeats the plan.
    pub seed: u64,
    /// The command that repeats it.
    pub command: String,
    /// The word.
    pub verdict: Verdict,
    /// Why it is not a pass, where nothing is wrong.
    pub reasons: Vec<String>,
    /// What the host did not allow.
    pub lacks: Vec<String>,
    /// How operations ended.
    pub counts: Counts,
    /// From the end of the load, when all faults are over, until all nodes served, in milliseconds.
    pub recovery_ms: Option<u64>,
}

/// Writes all files of a run into `dir`, which has its history already.
///
/// # Errors
/// If a file cannot be written, or a plot not drawn.
pub fn write(
    dir: &Path,
    summary: &Summary,
    wrong: &[Finding],
    history: &History,
) -> anyhow::Result<()> {
    save(&dir.join("history.edn"), &to_edn(history))?;
    save(&dir.join(SUMMARY), &serde_json::to_string_pretty(summary)?)?;
    save(
        &dir.join("report.html"),
        &page::page(summary, wrong, &plot::all(history)?),
    )
}

/// Writes the page over all runs below `dir`, with those of earlier times.
///
/// # Errors
/// If a summary cannot be read, or the page not be written.
pub fn write_matrix(dir: &Path) -> anyhow::Result<()> {
    let mut runs: Vec<Summary> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path().join(SUMMARY);
        if path.is_file() {
            let text = std::fs::read_to_string(&path)?;
            runs.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
        }
    }
    runs.sort_by(|one, other| one.name.cmp(&other.name));
    save(&dir.join("index.html"), &matrix::page(&runs))
}

fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A whole page.
fn document(title: &str, body: &str) -> String {
    let mut page = String::new();
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\n<style>{STYLE}</style></head>\n\
         <body>\n{body}</body></html>\n",
        escaped(title)
    );
    page
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}\
    table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:left;vertical-align:top}\
    pre{background:#f5f5f5;padding:.6rem;overflow-x:auto;white-space:pre-wrap}svg{max-width:100%;height:auto}\
    .PASS{color:#06720f}.FAIL{color:#b00020}.VACUOUS,.UNKNOWN{color:#8a5a00}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn verdict(verdict: Verdict) -> String {
    let text = verdict.text();
    format!("<strong class=\"{text}\">{text}</strong>")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary(name: &str, verdict: Verdict) -> Summary {
        Summary {
            name: name.to_owned(),
            workload: "register".to_owned(),
            faults: vec!["kill".to_owned()],
            seed: 7,
            command: "larder-jepsen test --seed 7".to_owned(),
            verdict,
            reasons: Vec::new(),
            lacks: vec!["no <namespaces>".to_owned()],
            counts: Counts::default(),
            recovery_ms: Some(12),
        }
    }

    #[test]
    fn a_run_is_one_page_that_needs_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let lines = [
            json!({"process": 0, "type": "invoke", "f": "read", "key": "k", "value": null, "node": "n1", "time": 0}),
            json!({"process": "nemesis", "type": "info", "f": "kill", "phase": "start", "value": {}, "time": 1_000_000_000}),
            json!({"process": "nemesis", "type": "info", "f": "kill", "phase": "end", "value": {}, "time": 2_000_000_000}),
            json!({"process": 0, "type": "ok", "f": "read", "key": "k", "value": null, "node": "n1", "time": 2_500_000_000_u64}),
        ];
        let lines = lines.map(|line| serde_json::from_value(line).expect("a line"));
        let history = History::new(lines.to_vec()).expect("well-formed");
        let finding = Finding {
            anomaly: "lost".to_owned(),
            what: "1 < 2".to_owned(),
            witness: vec!["line 1".to_owned()],
        };
        write(
            dir.path(),
            &summary("a", Verdict::Fail),
            &[finding],
            &history,
        )
        .expect("written");
        let page = std::fs::read_to_string(dir.path().join("report.html")).expect("a page");
        for part in [
            "FAIL",
            "lost",
            "1 &lt; 2",
            "line 1",
            "--seed 7",
            "no &lt;namespaces&gt;",
            "<svg",
            "12 ms",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("src="), "everything is inside");
    }

    #[test]
    fn the_matrix_has_all_runs() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for (name, verdict) in [("one", Verdict::Pass), ("two", Verdict::Vacuous)] {
            let run = dir.path().join(name);
            std::fs::create_dir(&run).expect("a folder");
            write(&run, &summary(name, verdict), &[], &History::default()).expect("written");
        }
        write_matrix(dir.path()).expect("written");
        let page = std::fs::read_to_string(dir.path().join("index.html")).expect("a page");
        for part in ["PASS", "VACUOUS", "one/report.html", "two/report.html"] {
            assert!(page.contains(part), "{part}");
        }
    }
}
