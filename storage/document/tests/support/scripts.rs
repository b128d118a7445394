//! Running golden scripts.

use std::path::Path;

/// Runs every script of a folder of `tests`, in the order of their names, each with a runner of its own.
///
/// # Panics
/// If a script prints something else than it says, or there is none.
pub(crate) fn run<R: goldenscript::Runner>(folder: &str, runner: impl Fn() -> R) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let scripts = std::fs::read_dir(&scripts).expect("a folder of scripts");
    let mut paths: Vec<_> = scripts
        .map(|entry| entry.expect("a script").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        if let Err(error) = goldenscript::run(&mut runner(), &path) {
            panic!("{}: {error}", path.display());
        }
    }
}
