//! `larder import`: a file of JSON records into a bucket, resumable and repeatable.
//!
//! A record without an id gets one that derives from the file's digest and the record's position. Every record is
//! inserted, never replaced; "exists already" counts as done. So an import that is resumed or repeated, or whose
//! outcome was unknown for some records, inserts nothing twice.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use document::body::EXPIRES_AT;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use super::client::{Client, Connect, Failure, Output, OutputArgs, Request, segment};
use super::exit::{Exit, Status};
use crate::records::Splitter;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// A record is tried this long while nodes fail over, then the import stops; it can be resumed.
const RETRY_FOR: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(200);
/// Between two writes of the position file.
const POSITION_EVERY: Duration = Duration::from_secs(1);
/// Members that a document has of its own, whatever its class.
const RESERVED: [&str; 5] = ["id", "version", "acl", "createdAt", "updatedAt"];

/// Inserts the records of a JSON array or NDJSON file into a bucket
///
/// Can be interrupted and repeated: no record is inserted twice. A record keeps its id if it has one of the form
/// /db/BUCKET/KEY (as `larder export` writes it); any other gets one from the file's digest and its position. A document that is there
/// already is left as it is.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  larder import movies.json --bucket Movie --create\n  \
    larder import backup.ndjson --bucket Todo --user root --password-file root.txt"
)]
pub struct Import {
    /// A JSON array of objects, or one JSON object a line
    file: PathBuf,
    /// The bucket (class) to insert into
    #[arg(long, value_name = "NAME")]
    bucket: String,
    /// Make the bucket if it is missing: an open one, which keeps members that no schema names. Needs root, which a cluster of
    /// `larder dev` grants by itself
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: OutputArgs,
    /// Requests at once
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// Where the position is kept until the import is complete [default: FILE.larder-import]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Take the member expiresAt of records without an id of ours as the moment when the document is deleted
    #[arg(long)]
    expires: bool,
    /// Report and count records that cannot be stored, instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
}

/// How far an import has come. Everything before `confirmed` is in the bucket, or was skipped as bad.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    digest: String,
    url: String,
    bucket: String,
    confirmed: u64,
    inserted: u64,
    present: u64,
    bad: u64,
}

/// What became of one record.
#[derive(Debug)]
enum Fate {
    Inserted,
    Present,
    Bad(String),
    /// The import cannot go on.
    Fatal(Failure),
}

/// Runs `larder import`.
pub(crate) async fn run(import: Import) -> anyhow::Result<()> {
    let client = if import.create {
        let root = Client::connect_as_root(&import.connect).await?;
        create_bucket(&root, &import.bucket)
            .await
            .map_err(|failure| failure.report(import.output.output))?;
        root
    } else {
        Client::connect(&import.connect).await?
    };
    client
        .reach()
        .await
        .map_err(|failure| failure.report(import.output.output))?;
    let digest = digest_of(&import.file)?;
    let state = import.state.clone().unwrap_or_else(|| beside(&import.file));
    let position = resume(&client, &import, &state, &digest).await?;
    let position = Job::new(&import, client, digest, position)
        .run(&state)
        .await?;
    let _ = std::fs::remove_file(&state);
    summarize(&position, import.output.output);
    Ok(())
}

fn summarize(position: &Position, output: Output) {
    let Position {
        bucket,
        inserted,
        present,
        bad,
        ..
    } = position;
    match output {
        Output::Json => println!(
            "{}",
            json!({ "bucket": bucket, "inserted": inserted, "present": present, "bad": bad, "records": position.confirmed })
        ),
        Output::Text => {
            println!("{bucket}: {inserted} inserted, {present} there already, {bad} bad")
        }
    }
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".larder-import");
    PathBuf::from(name)
}

fn digest_of(file: &Path) -> anyhow::Result<[u8; 32]> {
    let open = || format!("cannot read {}", file.display());
    let mut source = std::fs::File::open(file).with_context(open)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match source.read(&mut chunk).with_context(open)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&chunk[..read]),
        }
    }
}

/// The key of the record at `position` (from 0) of the file with this digest, in the form of a UUID of version 8.
pub(crate) fn derived_key(digest: &[u8; 32], position: u64) -> String {
    let mut hash = Sha256::new();
    hash.update(digest);
    hash.update(position.to_le_bytes());
    let hash = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex::encode(bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    )
}

/// Makes `bucket` an open one unless it exists.
pub(crate) async fn create_bucket(root: &Client, bucket: &str) -> Result<(), Failure> {
    match root
        .send(
            Method::GET,
            &format!("/schema/{}", segment(bucket)),
            Request::default(),
        )
        .await
    {
        Ok(_) => return Ok(()),
        Err(failure) if matches!(failure.status, 404 | 461) => {}
        Err(failure) => return Err(failure),
    }
    let class = json!([{
        "class": format!("/db/{bucket}"), "superClass": "/db/Object", "acl": {},
        "metadata": { "larder.open": "true" }, "fields": {},
    }]);
    let request = Request {
        body: Some(class.to_string().into()),
        ..Request::default()
    };
    root.send(Method::POST, "/schema", request)
        .await
        .map(|_| ())
}

/// The position to go on from: that of the state file if it is of this import and its last record is really there.
async fn resume(
    client: &Client,
    import: &Import,
    state: &Path,
    digest: &[u8; 32],
) -> anyhow::Result<Position> {
    let fresh = Position {
        digest: hex::encode(digest),
        url: client.base().to_owned(),
        bucket: import.bucket.clone(),
        ..Position::default()
    };
    let Ok(text) = std::fs::read(state) else {
        return Ok(fresh);
    };
    let Ok(stored) = serde_json::from_slice::<Position>(&text) else {
        eprintln!(
            "{} is no position file, starting at the first record",
            state.display()
        );
        return Ok(fresh);
    };
    let same =
        (&stored.digest, &stored.url, &stored.bucket) == (&fresh.digest, &fresh.url, &fresh.bucket);
    if !same || stored.confirmed == 0 {
        return Ok(fresh);
    }
    // The bucket may have been emptied since: a position is worth only as much as the data behind it.
    let record = nth_record(&import.file, stored.confirmed - 1)?;
    let key = record.and_then(|record| key_of(&record, digest, stored.confirmed - 1).ok());
    if let Some(key) = key {
        let path = format!("/db/{}/{}", segment(&import.bucket), segment(&key));
        if let Err(failure) = client.send(Method::GET, &path, Request::default()).await {
            if failure.status == 404 {
                eprintln!(
                    "record {} is no longer there, starting at the first record",
                    stored.confirmed - 1
                );
                return Ok(fresh);
            }
            return Err(failure.report(import.output.output));
        }
    }
    eprintln!("going on at record {}", stored.confirmed);
    Ok(stored)
}

fn nth_record(file: &Path, position: u64) -> anyhow::Result<Option<Map<String, Value>>> {
    let mut source = Source::open(file)?;
    let mut seen = 0;
    while let Some(record) = source.next()? {
        if seen == position {
            return Ok(serde_json::from_slice(&record).ok());
        }
        seen += 1;
    }
    Ok(None)
}

/// Records of a file, one after another.
struct Source {
    file: std::fs::File,
    path: PathBuf,
    splitter: Splitter,
    ready: std::collections::VecDeque<Vec<u8>>,
    chunk: Vec<u8>,
    bytes: u64,
    ended: bool,
}

impl Source {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file =
            std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            splitter: Splitter::new(),
            ready: std::collections::VecDeque::new(),
            chunk: vec![0; CHUNK_BYTES],
            bytes: 0,
            ended: false,
        })
    }

    fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        while self.ready.is_empty() && !self.ended {
            let file = || format!("{}", self.path.display());
            let read = self.file.read(&mut self.chunk).with_context(file)?;
            let ready = &mut self.ready;
            if read == 0 {
                self.ended = true;
                self.splitter
                    .finish(|record| ready.push_back(record))
                    .with_context(file)?;
            } else {
                self.bytes += read as u64;
                self.splitter
                    .feed(&self.chunk[..read], |record| ready.push_back(record))
                    .with_context(file)?;
            }
        }
        Ok(self.ready.pop_front())
    }
}

/// The document's key: its own, or a derived one.
fn key_of(record: &Map<String, Value>, digest: &[u8; 32], position: u64) -> Result<String, String> {
    let Some(id) = record.get("id") else {
        return match RESERVED
            .iter()
            .find(|name| record.get(**name).is_some_and(|value| !value.is_null()))
        {
            None | Some(&"acl") => Ok(derived_key(digest, position)),
            Some(name) => Err(format!("member `{name}` is reserved for Larder: rename it")),
        };
    };
    let key = id
        .as_str()
        .and_then(|id| id.strip_prefix("/db/"))
        .and_then(|id| id.split_once('/'));
    let Some((_, key)) = key.filter(|(_, key)| !key.is_empty() && !key.contains('/')) else {
        return Err(format!(
            "member `id` is reserved for ids such as /db/BUCKET/KEY: rename it (it is {id})"
        ));
    };
    let decoded = percent_encoding::percent_decode_str(key).decode_utf8();
    decoded
        .map(|key| key.into_owned())
        .map_err(|_| format!("the id {id} is not UTF-8"))
}

/// The body of the insert.
fn body_of(
    bytes: &[u8],
    bucket: &str,
    expires: bool,
    digest: &[u8; 32],
    position: u64,
) -> Result<Bytes, String> {
    let mut record = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(record)) => record,
        Ok(_) => return Err("not a JSON object".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let key = key_of(&record, digest, position)?;
    // What is past would be deleted at once: a foreign record must not mean it by chance.
    let is_foreign = !record.contains_key("id");
    if is_foreign && !expires && record.get(EXPIRES_AT).is_some_and(|value| !value.is_null()) {
        return Err(format!(
            "member `{EXPIRES_AT}` would delete the document at its time: confirm it with --expires, or rename it"
        ));
    }
    record.insert(
        "id".to_owned(),
        Value::String(format!("/db/{bucket}/{}", segment(&key))),
    );
    serde_json::to_vec(&record)
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}

/// One run over the file.
struct Job<'a> {
    import: &'a Import,
    client: Client,
    digest: [u8; 32],
    position: Position,
    /// Records past `position.confirmed` that are done; at most as many as there are requests at once.
    done: BTreeSet<u64>,
}

impl<'a> Job<'a> {
    fn new(import: &'a Import, client: Client, digest: [u8; 32], position: Position) -> Self {
        Self {
            import,
            client,
            digest,
            position,
            done: BTreeSet::new(),
        }
    }

    async fn run(mut self, state: &Path) -> anyhow::Result<Position> {
        let bar = progress_bar(std::fs::metadata(&self.import.file).map_or(0, |file| file.len()));
        let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
        let outcome = tokio::select! {
            outcome = self.work(state, &bar) => outcome,
            _ = &mut stop => Err(Exit::new(Status::Error, "interrupted").into()),
        };
        bar.finish_and_clear();
        if outcome.is_err() {
            self.save(state);
            let next = self.position.confirmed;
            return outcome.map(|()| self.position).with_context(|| {
                format!(
                    "stopped; all records before {next} are done, the same command goes on there"
                )
            });
        }
        Ok(self.position)
    }

    async fn work(&mut self, state: &Path, bar: &ProgressBar) -> anyhow::Result<()> {
        let mut requests = JoinSet::new();
        let sent = self.send_all(&mut requests, state, bar).await;
        // Also after an error: what is under way counts, so that the position says where to go on.
        let mut outcome = sent;
        while let Some(finished) = requests.join_next().await {
            let settled = finished
                .context("an insert was lost")
                .and_then(|fate| self.settle(fate));
            outcome = outcome.and(settled);
        }
        outcome
    }

    async fn send_all(
        &mut self,
        requests: &mut JoinSet<(u64, Fate)>,
        state: &Path,
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let mut source = Source::open(&self.import.file)?;
        let mut saved = Instant::now();
        let mut next = 0;
        while let Some(record) = source.next()? {
            let at = next;
            next += 1;
            if at < self.position.confirmed {
                continue;
            }
            bar.set_position(source.bytes);
            if requests.len() >= usize::from(self.import.clients)
                && let Some(finished) = requests.join_next().await
            {
                self.settle(finished.context("an insert was lost")?)?;
            }
            let expires = self.import.expires;
            match body_of(&record, &self.import.bucket, expires, &self.digest, at) {
                Ok(body) => {
                    let (client, bucket) = (self.client.clone(), self.import.bucket.clone());
                    requests.spawn(async move { (at, insert(&client, &bucket, body).await) });
                }
                Err(reason) => self.settle((at, Fate::Bad(reason)))?,
            }
            if saved.elapsed() >= POSITION_EVERY {
                self.save(state);
                saved = Instant::now();
            }
        }
        Ok(())
    }

    fn settle(&mut self, (at, fate): (u64, Fate)) -> anyhow::Result<()> {
        match fate {
            Fate::Inserted => self.position.inserted += 1,
            Fate::Present => self.position.present += 1,
            Fate::Bad(reason) if self.import.skip_bad => {
                eprintln!("record {at}: {reason}");
                self.position.bad += 1;
            }
            Fate::Bad(reason) => {
                return Err(
                    Exit::new(Status::Error, format_args!("record {at} is bad: {reason}")).into(),
                );
            }
            Fate::Fatal(failure) => {
                return Err(failure
                    .report(self.import.output.output)
                    .context(format!("record {at}")));
            }
        }
        self.done.insert(at);
        while self.done.remove(&self.position.confirmed) {
            self.position.confirmed += 1;
        }
        Ok(())
    }

    /// A position that cannot be kept costs time on the next run, never data.
    fn save(&self, state: &Path) {
        let temporary = state.with_extension("larder-import-new");
        let text = serde_json::to_vec(&self.position).unwrap_or_default();
        let written =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, state));
        if let Err(error) = written {
            eprintln!("cannot keep the position in {}: {error}", state.display());
        }
    }
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let template = "{elapsed_precise} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

async fn insert(client: &Client, bucket: &str, body: Bytes) -> Fate {
    let path = format!("/db/{}", segment(bucket));
    let give_up = Instant::now() + RETRY_FOR;
    loop {
        let request = Request {
            body: Some(body.clone()),
            ..Request::default()
        };
        let failure = match client.send(Method::POST, &path, request).await {
            Ok(_) => return Fate::Inserted,
            Err(failure) => failure,
        };
        match failure.status {
            409 => return Fate::Present,
            400 | 413 | 414 | 463 | 471 => return Fate::Bad(failure.to_string()),
            // An insert may be repeated whatever became of it.
            0 | 429 | 500 | 502..=504 if Instant::now() < give_up => {
                tokio::time::sleep(RETRY).await
            }
            _ => return Fate::Fatal(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn derived_keys_never_change() {
        // On disks of users since the first release: a repeated import must find them.
        assert_eq!(
            derived_key(&[0; 32], 0),
            "2c34ce1d-f23b-838c-9abf-2a7f6437cca3"
        );
    }

    #[test]
    fn a_record_keeps_an_id_of_ours_and_gets_a_derived_one_otherwise() {
        let digest = [1; 32];
        assert_eq!(
            key_of(&record(r#"{"a":1}"#), &digest, 5).unwrap(),
            derived_key(&digest, 5)
        );
        assert_eq!(
            key_of(&record(r#"{"id":"/db/Old/a%2Fb","version":3}"#), &digest, 5).unwrap(),
            "a/b"
        );
        assert_eq!(
            key_of(&record(r#"{"acl":{"read":{}}}"#), &digest, 5).unwrap(),
            derived_key(&digest, 5)
        );
    }

    #[test]
    fn reserved_members_of_a_foreign_record_are_refused_not_lost() {
        for text in [
            r#"{"id":5}"#,
            r#"{"id":"x"}"#,
            r#"{"version":"1.2"}"#,
            r#"{"createdAt":"2020"}"#,
        ] {
            assert!(key_of(&record(text), &[1; 32], 0).is_err(), "{text}");
        }
    }

    #[test]
    fn the_body_carries_the_id_in_the_target_bucket() {
        let of = |text: &[u8], expires| body_of(text, "New", expires, &[1; 32], 0);
        let body = of(br#"{"id":"/db/Old/k","n":1e2}"#, false).unwrap();
        assert_eq!(
            record(std::str::from_utf8(&body).unwrap())["id"],
            "/db/New/k"
        );
        assert_eq!(of(b"[1]", false).unwrap_err(), "not a JSON object");
        assert!(of(b"{", false).is_err());
        let foreign = br#"{"expiresAt":"2020-01-01"}"#;
        assert!(of(foreign, false).unwrap_err().contains("--expires"));
        assert!(of(foreign, true).is_ok());
        let ours = br#"{"id":"/db/Old/k","expiresAt":"2020-01-01"}"#;
        assert!(of(ours, false).is_ok());
        assert!(of(br#"{"expiresAt":null}"#, false).is_ok());
    }

    proptest! {
        #[test]
        fn derived_keys_differ_between_positions_and_files(
            digest in any::<[u8; 32]>(), other in any::<[u8; 32]>(), a in any::<u64>(), b in any::<u64>(),
        ) {
            let key = derived_key(&digest, a);
            prop_assert_eq!(key.len(), 36);
            prop_assert_eq!(&key[14..15], "8");
            prop_assert_eq!(key == derived_key(&digest, b), a == b);
            prop_assert_eq!(key == derived_key(&other, a), digest == other);
        }
    }
}
