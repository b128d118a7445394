//! `larder export`: all documents of a bucket, as NDJSON or as a JSON array.
//!
//! Over gRPC `Scan`, which gives a continuation with every page: a stream that breaks off is taken up where it ended.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use proto::v1::documents_client::DocumentsClient;
use proto::v1::{ScanRequest, ScanResponse};
use serde_json::json;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status as RpcStatus};

use super::client::{CONNECT_TIMEOUT, Client, Connect, Output, OutputArgs};
use super::exit::{Exit, Status};
use super::tls::channel;

/// A page holds whole documents of up to a configured size, 16 MiB at most each.
const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A broken stream is taken up again for this long without any progress.
const RETRY_FOR: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// Prints all documents of a bucket, with their ids, versions and ACLs; needs root
///
/// `larder import` reads both forms back. The documents are those of some moment during the export, each for itself. In a cluster of
/// `larder dev` the log-in as root happens by itself; elsewhere it takes --user and --password-file, or --token-file.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  larder export --bucket Todo --out todo.ndjson\n  \
    larder export --bucket Todo --user root --password-file root.txt | wc -l"
)]
pub struct Export {
    /// The bucket (class)
    #[arg(long, value_name = "NAME")]
    bucket: String,
    /// Where to write; it appears only once it is complete [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// One document a line, or one array
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    form: Form,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    #[default]
    Ndjson,
    Array,
}

/// Runs `larder export`.
pub(crate) async fn run(export: Export) -> anyhow::Result<()> {
    let client = Client::connect_as_root(&export.connect).await?;
    client
        .reach()
        .await
        .map_err(|failure| failure.report(export.output.output))?;
    let Some(out) = &export.out else {
        let count = write(
            &client,
            &export,
            std::io::BufWriter::new(std::io::stdout().lock()),
        )
        .await?;
        eprintln!("{}: {count} documents", export.bucket);
        return Ok(());
    };
    let temporary = with_suffix(out, ".part");
    let describe = || format!("cannot write {}", temporary.display());
    let file = std::fs::File::create(&temporary).with_context(describe)?;
    let count = write(&client, &export, std::io::BufWriter::new(&file)).await?;
    file.sync_all().with_context(describe)?;
    std::fs::rename(&temporary, out).with_context(describe)?;
    match export.output.output {
        Output::Json => println!(
            "{}",
            json!({ "bucket": export.bucket, "documents": count, "file": out })
        ),
        Output::Text => println!("{}: {count} documents in {}", export.bucket, out.display()),
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

async fn write(client: &Client, export: &Export, mut sink: impl Write) -> anyhow::Result<u64> {
    let mut scan = Scan::new(client, &export.bucket)?;
    let bar = progress_bar(export.out.is_some());
    let mut count = 0;
    if export.form == Form::Array {
        sink.write_all(b"[")?;
    }
    while let Some(page) = scan.next().await? {
        for document in &page.documents {
            write_record(&mut sink, export.form, count == 0, &document.json)?;
            count += 1;
        }
        bar.set_position(count);
    }
    bar.finish_and_clear();
    if export.form == Form::Array {
        sink.write_all(b"\n]\n")?;
    }
    sink.flush()?;
    Ok(count)
}

/// Shown while a file is written; a pipe may be read on the same terminal.
fn progress_bar(shown: bool) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::no_length();
    let template = "{elapsed_precise} {spinner} {human_pos} documents {per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// The pages of a bucket, each once.
struct Scan {
    documents: DocumentsClient<Channel>,
    request: ScanRequest,
    authorization: Option<MetadataValue<tonic::metadata::Ascii>>,
    stream: Option<tonic::Streaming<ScanResponse>>,
    give_up: Instant,
    ended: bool,
}

impl Scan {
    fn new(client: &Client, bucket: &str) -> anyhow::Result<Self> {
        let (origin, database) = client.origin_and_database();
        let endpoint =
            Endpoint::from_shared(origin.to_owned()).with_context(|| origin.to_owned())?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        let channel = channel(&endpoint, client.secure()?.as_ref());
        let authorization = client
            .token()
            .map(|token| format!("BAT {token}").parse())
            .transpose();
        Ok(Self {
            documents: DocumentsClient::new(channel).max_decoding_message_size(PAGE_BYTES_MAX),
            request: ScanRequest {
                database: database.to_owned(),
                bucket: bucket.to_owned(),
                ..ScanRequest::default()
            },
            authorization: authorization.context("the token cannot be sent")?,
            stream: None,
            give_up: Instant::now() + RETRY_FOR,
            ended: false,
        })
    }

    /// The next page; `None` after the last.
    async fn next(&mut self) -> anyhow::Result<Option<ScanResponse>> {
        while !self.ended {
            match self.try_next().await {
                Ok(Some(page)) => {
                    self.ended = page.continuation.is_empty();
                    self.request.continuation = page.continuation.clone();
                    self.give_up = Instant::now() + RETRY_FOR;
                    return Ok(Some(page));
                }
                Ok(None) => self.ended = true,
                Err(status) if is_passing(&status) && Instant::now() < self.give_up => {
                    self.stream = None;
                    tokio::time::sleep(RETRY).await;
                }
                Err(status) => return Err(explain(&status).into()),
            }
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> Result<Option<ScanResponse>, RpcStatus> {
        if self.stream.is_none() {
            let mut request = tonic::Request::new(self.request.clone());
            if let Some(authorization) = &self.authorization {
                request
                    .metadata_mut()
                    .insert("authorization", authorization.clone());
            }
            self.stream = Some(self.documents.scan(request).await?.into_inner());
        }
        match &mut self.stream {
            Some(stream) => stream.message().await,
            None => Ok(None),
        }
    }
}

/// Whether a scan may simply be asked again: it reads, so nothing can have happened.
fn is_passing(status: &RpcStatus) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
    )
}

fn explain(status: &RpcStatus) -> Exit {
    let text = |name: &str| {
        status
            .metadata()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let code = text("larder-code").unwrap_or("unreachable");
    let id = text("larder-request-id")
        .map(|id| format!(", request {id}"))
        .unwrap_or_default();
    let exit = if is_passing(status) {
        Status::Unavailable
    } else {
        Status::Error
    };
    Exit::new(exit, format_args!("{} (code {code}{id})", status.message()))
}

fn write_record(
    sink: &mut impl Write,
    form: Form,
    first: bool,
    record: &[u8],
) -> std::io::Result<()> {
    match form {
        Form::Array => {
            sink.write_all(if first { b"\n" } else { b",\n" })?;
            sink.write_all(record)
        }
        // The server writes documents without line breaks: raw ones cannot occur in JSON strings.
        Form::Ndjson => {
            sink.write_all(record)?;
            sink.write_all(b"\n")
        }
    }
}
