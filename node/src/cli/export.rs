//! `larder export`: all documents of a bucket, as NDJSON or as a JSON array.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use serde_json::json;

use super::client::{Client, Connect, Output, OutputArgs, segment};
use super::records::Splitter;

/// Prints all documents of a bucket, with their ids, versions and ACLs; needs root
///
/// `larder import` reads both forms back. The documents are those of some moment during the export, each for itself.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  larder export --bucket Todo --out todo.ndjson")]
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
    let path = format!("/db/{}", segment(&export.bucket));
    let response = client
        .stream(&path)
        .await
        .map_err(|failure| failure.report(export.output.output))?;
    let (mut splitter, mut count) = (Splitter::new(), 0);
    let mut chunks = response.bytes_stream();
    let mut records = Vec::new();
    if export.form == Form::Array {
        sink.write_all(b"[")?;
    }
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.context("the export broke off")?;
        splitter
            .feed(&chunk, |record| records.push(record))
            .context("the export is not a JSON array")?;
        for record in records.drain(..) {
            write_record(&mut sink, export.form, count == 0, &record)?;
            count += 1;
        }
    }
    // A cut connection without an error shows here: the array has no end.
    splitter.finish(|_| {}).context("the export broke off")?;
    if export.form == Form::Array {
        sink.write_all(b"\n]\n")?;
    }
    sink.flush()?;
    Ok(count)
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
