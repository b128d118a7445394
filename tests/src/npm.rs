//! What the tests take from the npm registry: the published SDK and a data set, pinned by `tests/sdk`, and other packages, each pinned by
//! a folder of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::process::run_to_end;
use crate::{Cluster, binary};

/// The registry may be slow.
const INSTALL_DEADLINE: Duration = Duration::from_secs(180);

/// `tests/sdk` with its packages installed. `make test` has done so; otherwise it happens now.
///
/// # Panics
/// If `npm ci` fails.
pub fn folder() -> PathBuf {
    installed("sdk")
}

/// `tests/<name>` with its packages installed, now if need be.
///
/// # Panics
/// If `npm ci` fails.
pub fn installed(name: &str) -> PathBuf {
    let folder = crate::repository().join("tests").join(name);
    if !folder.join("node_modules/.package-lock.json").is_file() {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&folder)
            .stdin(Stdio::null());
        let ended = run_to_end(npm, INSTALL_DEADLINE);
        assert_eq!(
            ended.status,
            0,
            "npm ci: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }
    folder
}

/// The file with the film data set, a JSON array of objects.
///
/// # Panics
/// If it cannot be installed.
pub fn movies_file() -> PathBuf {
    folder().join("node_modules/vega-datasets/data/movies.json")
}

/// Imports the film data set into the bucket `Movies`, which it makes.
///
/// # Panics
/// If that fails.
pub async fn import_movies(cluster: &Cluster) {
    let file = cluster.dir().join("movies.json");
    std::fs::copy(movies_file(), &file).expect("a copy");
    let (file, url) = (file.to_str().expect("a path"), &cluster.nodes[0].client);
    binary::run([
        "import", file, "--url", url, "--bucket", "Movies", "--create",
    ])
    .await
    .expect(0);
}

/// The film data set.
///
/// # Panics
/// If it is not a JSON array.
pub fn movies() -> Vec<Value> {
    let text = std::fs::read(movies_file()).expect("vega-datasets has movies.json");
    serde_json::from_slice(&text).expect("an array of objects")
}
