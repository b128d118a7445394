//! Promise: a real data set goes in by one command and comes out value by value; repeating or resuming an import
//! inserts nothing twice.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::http::content;
use tests::process::Running;
use tests::{Checks, Cluster, binary, eventually, grpc, npm};

#[tokio::test]
async fn imports() {
    let cluster = Cluster::dev().await;
    let mut checks = Checks::new();
    checks.check("the film data set", movies(&cluster)).await;
    checks
        .check(
            "lines, ids of their own, and records that are no objects",
            lines(&cluster),
        )
        .await;
    checks
        .check("an interrupted import goes on", interrupted(&cluster))
        .await;
    checks
        .check("an export is what an import reads", round_trip(&cluster))
        .await;
    checks.check("refusals", refusals(&cluster)).await;
    checks.finish();
}

async fn import(cluster: &Cluster, node: usize, file: &Path, more: &[&str]) -> binary::Output {
    let url = &cluster.nodes[node].client;
    let file = file.to_str().expect("a path");
    binary::run(
        ["import", file, "--url", url, "-o", "json"]
            .iter()
            .chain(more),
    )
    .await
}

/// How often each value is in the bucket, without what the server adds; and the versions that occur.
async fn stored(
    cluster: &Cluster,
    node: usize,
    bucket: &str,
) -> (BTreeMap<String, usize>, Vec<u64>) {
    let documents = grpc::scan_all(&cluster.nodes[node].client, bucket, None).await;
    let mut versions: Vec<u64> = documents
        .iter()
        .filter_map(|document| document["version"].as_u64())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    (counted(documents.iter().map(content)), versions)
}

fn counted(values: impl Iterator<Item = Value>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value.to_string()).or_default() += 1;
    }
    counts
}

async fn movies(cluster: &Cluster) {
    let file = copy(cluster, &npm::movies_file(), "movies.json");
    let movies = npm::movies();
    assert!(movies.len() > 3000, "{} films", movies.len());
    let first = import(cluster, 0, &file, &["--bucket", "Movies", "--create"])
        .await
        .expect(0)
        .json();
    assert_eq!(
        (&first["inserted"], &first["present"]),
        (&json!(movies.len()), &json!(0)),
        "{first}"
    );
    let expected = counted(movies.iter().cloned());
    for node in cluster.all() {
        let (found, versions) = stored(cluster, node, "Movies").await;
        assert!(
            found == expected,
            "what was read back differs: {}",
            difference(&expected, &found)
        );
        assert_eq!(versions, [1]);
    }
    let class = cluster
        .api(0)
        .get("/schema/Movies")
        .send()
        .await
        .expect(200)
        .json();
    assert_eq!(class["metadata"]["larder.open"], "true");

    let again = import(cluster, 1, &file, &["--bucket", "Movies", "--create"])
        .await
        .expect(0)
        .json();
    assert_eq!(
        (&again["inserted"], &again["present"]),
        (&json!(0), &json!(movies.len())),
        "{again}"
    );
    let (found, versions) = stored(cluster, 2, "Movies").await;
    assert!(
        found == expected && versions == [1],
        "a repetition changed something"
    );
}

/// The import keeps its position beside the file, so the file is the test's own.
fn copy(cluster: &Cluster, file: &Path, name: &str) -> std::path::PathBuf {
    let copy = cluster.dir().join(name);
    std::fs::copy(file, &copy).expect("a copy");
    copy
}

fn difference(expected: &BTreeMap<String, usize>, found: &BTreeMap<String, usize>) -> String {
    let missing = expected
        .iter()
        .find(|(value, count)| found.get(*value) != Some(count));
    let extra = found
        .iter()
        .find(|(value, count)| expected.get(*value) != Some(count));
    format!("missing {missing:?}, not expected {extra:?}")
}

async fn lines(cluster: &Cluster) {
    let file = cluster.dir().join("lines.ndjson");
    let text = "{\"id\":\"/db/Lines/own%2Fid\",\"n\":1}\n\n{\"n\":12345678901234567890123}\r\n{\"n\":1.10,\"ü\":null}";
    std::fs::write(&file, text).expect("a file");
    import(cluster, 2, &file, &["--bucket", "Lines", "--create"])
        .await
        .expect(0);
    let own = cluster
        .api(0)
        .get("/db/Lines/own%2Fid")
        .send()
        .await
        .expect(200);
    assert_eq!(content(&own.json()), json!({ "n": 1 }));
    let documents = grpc::scan_all(&cluster.nodes[1].client, "Lines", None).await;
    assert_eq!(documents.len(), 3);

    std::fs::write(&file, "{\"n\":1}\n[1]\n{\"n\":3}\n").expect("a file");
    let stopped = import(cluster, 0, &file, &["--bucket", "LinesBad", "--create"])
        .await
        .expect(1);
    assert!(
        stopped.stderr.contains("record 1"),
        "the bad record is named: {}",
        stopped.stderr
    );
    let skipped = import(cluster, 0, &file, &["--bucket", "LinesBad", "--skip-bad"])
        .await
        .expect(0)
        .json();
    assert_eq!(skipped["bad"], 1, "{skipped}");
    assert_eq!(
        grpc::scan_all(&cluster.nodes[0].client, "LinesBad", None)
            .await
            .len(),
        2
    );
}

/// Killed the hard way in the middle, and started again with the same command.
async fn interrupted(cluster: &Cluster) {
    const RECORDS: usize = 6000;
    let path = cluster.dir().join("many.ndjson");
    let mut file = std::fs::File::create(&path).expect("a file");
    for number in 0..RECORDS {
        writeln!(
            file,
            "{}",
            json!({ "number": number, "pad": "y".repeat(200) })
        )
        .expect("written");
    }
    drop(file);
    let arguments = ["--bucket", "Many", "--create", "--clients", "4"];
    let url = &cluster.nodes[0].client;
    let mut command = binary::command();
    command
        .arg("import")
        .arg(&path)
        .args(arguments)
        .args(["--url", url]);
    let mut running = Running::spawn(&mut command, &cluster.dir().join("import.log"));
    let position = Path::new(&format!("{}.larder-import", path.display())).to_owned();
    let bytes = eventually(
        "the import has noted a position",
        Duration::from_secs(60),
        || {
            let noted = std::fs::read(&position)
                .ok()
                .filter(|bytes| serde_json::from_slice::<Value>(bytes).is_ok());
            let ended = running.ended();
            async move {
                assert_eq!(
                    ended, None,
                    "the import was over before it could be interrupted: more records are needed"
                );
                noted
            }
        },
    )
    .await;
    running.signal(Signal::SIGKILL);
    running.wait(Duration::from_secs(10)).expect("killed");
    let so_far = grpc::scan_all(url, "Many", None).await.len();
    assert!(
        so_far > 0 && so_far < RECORDS,
        "interrupted in the middle, at {so_far}"
    );
    assert!(!bytes.is_empty());

    let rest = import(cluster, 1, &path, &arguments).await.expect(0).json();
    let (found, versions) = stored(cluster, 2, "Many").await;
    assert_eq!((found.len(), versions), (RECORDS, vec![1]), "{rest}");
    assert!(found.values().all(|count| *count == 1));
    assert!(
        !position.exists(),
        "a complete import leaves no position behind"
    );
}

async fn round_trip(cluster: &Cluster) {
    let out = cluster.dir().join("export.ndjson");
    let (url, file) = (&cluster.nodes[1].client, out.to_str().expect("a path"));
    binary::run(["export", "--bucket", "Movies", "--out", file, "--url", url])
        .await
        .expect(0);
    let text = std::fs::read_to_string(&out).expect("the export");
    let exported = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a document a line"));
    let exported: Vec<Value> = exported.collect();
    assert!(counted(exported.iter().map(content)) == counted(npm::movies().into_iter()));

    // Into an empty cluster's bucket of the same name it would bring the same ids; here they are all there.
    let again = import(cluster, 0, &out, &["--bucket", "Movies"])
        .await
        .expect(0)
        .json();
    assert_eq!(
        (&again["inserted"], &again["present"]),
        (&json!(0), &json!(exported.len())),
        "{again}"
    );
}

async fn refusals(cluster: &Cluster) {
    let file = cluster.dir().join("refused.json");
    std::fs::write(&file, "[{\"n\":1},{\"n\":2}]").expect("a file");
    let unknown = import(cluster, 0, &file, &["--bucket", "NoSuchBucket"])
        .await
        .expect(1);
    assert!(
        format!("{}{}", unknown.stdout, unknown.stderr).contains("bucket_not_found"),
        "{unknown:?}"
    );
    let missing = cluster.dir().join("no-such-file.json");
    let missing = import(cluster, 0, &missing, &["--bucket", "Demo"])
        .await
        .expect(1);
    assert!(missing.stderr.contains("no-such-file.json"), "{missing:?}");
    std::fs::write(&file, "[{\"n\":1},{\"n\"").expect("a file");
    let cut = import(cluster, 0, &file, &["--bucket", "Demo"])
        .await
        .expect(1);
    assert!(cut.stderr.contains("refused.json"), "{cut:?}");
}
