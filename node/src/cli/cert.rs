//! `larder cert`: makes the certificates of a cluster, and shows what one says.
//!
//! One folder holds the CA and what it made; the CA's key needs to be there only while something is made. Files are written
//! whole or not at all, readable by their owner alone, and never over others unless asked to.

mod files;
mod make;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use self::files::Folder;
use self::make::{Authority, Made, Role};
use super::client::{Output, OutputArgs};
use super::exit::{Exit, Status};
use crate::tls::facts::{self, Facts, date};

/// Ten years: changing it means new certificates for every node and client.
const CA_DAYS: u32 = 3650;
/// A year, so that renewing is practised.
const NODE_DAYS: u32 = 365;
/// People leave, and there are no revocation lists.
const CLIENT_DAYS: u32 = 90;

/// Makes certificates for nodes and clients, and shows them.
///
/// A cluster has a CA of its own: whoever holds a node certificate of it is a node of the cluster. Nothing is sent
/// anywhere, files are made in one folder.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  larder cert create-ca\n  larder cert create-node n1 --host 10.0.0.1 --host n1.example.com\n  \
    larder cert create-client alice\n  larder cert show certs/n1.crt"
)]
pub struct Cert {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Makes the CA of a cluster: ca.crt for every node and client, ca.key for nobody
    #[command(after_help = "Example:\n  larder cert create-ca --dir certs")]
    CreateCa(CreateCa),
    /// Makes the certificate of a node
    ///
    /// Besides the named hosts it is valid for localhost, 127.0.0.1 and ::1, where the admin port listens.
    #[command(
        after_help = "Example:\n  larder cert create-node n1 --host 10.0.0.1 --host n1.example.com"
    )]
    CreateNode(CreateNode),
    /// Makes the certificate of a client, for ports that ask for one; it makes nobody a node
    #[command(after_help = "Example:\n  larder cert create-client alice --days 30")]
    CreateClient(CreateClient),
    /// Shows what the certificates of a file say; exit status 1 if one is out of date
    #[command(after_help = "Example:\n  larder cert show certs/n1.crt")]
    Show(Show),
}

#[derive(Args, Clone, Debug)]
struct CreateCa {
    #[command(flatten)]
    target: Target,
    /// How long it is valid
    #[arg(long, default_value_t = CA_DAYS, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Args, Clone, Debug)]
struct CreateNode {
    /// Name of the node; also of the files
    #[arg(value_name = "NAME", value_parser = file_name)]
    name: String,
    /// A name or an IP address that clients and operators reach the node by; repeat for more
    #[arg(long, required = true, value_name = "HOST", value_parser = host)]
    host: Vec<String>,
    #[command(flatten)]
    target: Target,
    /// How long it is valid, at most as long as the CA
    #[arg(long, default_value_t = NODE_DAYS, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Args, Clone, Debug)]
struct CreateClient {
    /// Name of the client; also of the files
    #[arg(value_name = "NAME", value_parser = file_name)]
    name: String,
    #[command(flatten)]
    target: Target,
    /// How long it is valid, at most as long as the CA
    #[arg(long, default_value_t = CLIENT_DAYS, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Args, Clone, Debug)]
struct Target {
    /// The folder of the CA and of what it makes
    #[arg(long, default_value = "certs", value_name = "DIR")]
    dir: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

#[derive(Args, Clone, Debug)]
struct Show {
    /// Certificates in PEM form
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// A name that is a file's too, and not the CA's.
fn file_name(text: &str) -> Result<String, String> {
    let plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if plain && !text.is_empty() && !text.starts_with(['.', '-']) && text != "ca" {
        Ok(text.to_owned())
    } else {
        Err("letters, digits, `-`, `_` and `.`, and not `ca`".to_owned())
    }
}

/// A DNS name or an IP address, without a port.
fn host(text: &str) -> Result<String, String> {
    let is_host = text.parse::<IpAddr>().is_ok()
        || rustls::pki_types::DnsName::try_from(text.trim_start_matches("*.")).is_ok();
    match is_host {
        true => Ok(text.to_owned()),
        false => Err("a name or an IP address, without port".to_owned()),
    }
}

/// Runs `larder cert`.
pub(crate) fn run(cert: &Cert) -> anyhow::Result<()> {
    match &cert.verb {
        Verb::CreateCa(args) => create_ca(args),
        Verb::CreateNode(args) => create_node(args),
        Verb::CreateClient(args) => create_client(args),
        Verb::Show(args) => show(args),
    }
}

fn create_ca(args: &CreateCa) -> anyhow::Result<()> {
    let folder = Folder::make(&args.target.dir)?;
    let made = make::authority(args.days)?;
    let (certificate, key) = folder.write("ca", &made, args.target.force)?;
    print_made(&certificate, &key, &made, "CA of a cluster")?;
    println!(
        "{} goes to every node (tls.ca) and client (--ca).\n{} makes certificates: keep it away from the nodes, and back it up.",
        certificate.display(),
        key.display()
    );
    Ok(())
}

fn create_node(args: &CreateNode) -> anyhow::Result<()> {
    let (certificate, key) = create(
        &args.target,
        &args.name,
        Role::Node(&args.host),
        args.days,
        &format!("node {}", args.name),
    )?;
    let ca = args.target.dir.join("ca.crt");
    println!(
        "Copy these and {ca} to the node {name}, and the key nowhere else. Its configuration names them:\n\n\
         [tls]\nca = \"{ca}\"\ncertificate = \"{certificate}\"\nkey = \"file:{key}\"",
        ca = ca.display(),
        name = args.name,
        certificate = certificate.display(),
        key = key.display(),
    );
    Ok(())
}

fn create_client(args: &CreateClient) -> anyhow::Result<()> {
    let (certificate, key) = create(
        &args.target,
        &args.name,
        Role::Client,
        args.days,
        &format!("client {}", args.name),
    )?;
    println!(
        "Give these and {ca} to {name}, for the client verbs:\n\n  --ca {ca} --cert {certificate} --key {key}",
        ca = args.target.dir.join("ca.crt").display(),
        name = args.name,
        certificate = certificate.display(),
        key = key.display(),
    );
    Ok(())
}

fn create(
    target: &Target,
    name: &str,
    role: Role<'_>,
    days: u32,
    what: &str,
) -> anyhow::Result<(PathBuf, PathBuf)> {
    let folder = Folder::open(&target.dir)?;
    let authority = Authority::read(&target.dir)?;
    let made = authority.sign(name, role, days)?;
    let (certificate, key) = folder.write(name, &made, target.force)?;
    print_made(&certificate, &key, &made, what)?;
    Ok((certificate, key))
}

fn print_made(certificate: &Path, key: &Path, made: &Made, what: &str) -> anyhow::Result<()> {
    let facts = read_one(made.certificate.as_bytes(), certificate)?;
    let names = match facts.names.is_empty() {
        true => String::new(),
        false => format!(", for {}", facts.names.join(" ")),
    };
    println!(
        "{}: certificate of {what}{names}, until {}\n{}: its private key",
        certificate.display(),
        date(facts.not_after),
        key.display()
    );
    Ok(())
}

fn read_one(pem: &[u8], path: &Path) -> anyhow::Result<Facts> {
    let found = facts::certificates(path, pem).map_err(anyhow::Error::msg)?;
    Facts::of(&found[0]).map_err(anyhow::Error::msg)
}

fn show(args: &Show) -> anyhow::Result<()> {
    let pem = std::fs::read(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let found = facts::certificates(&args.file, &pem).map_err(anyhow::Error::msg)?;
    let (now, mut late) = (facts::now(), None);
    let mut list = Vec::new();
    for certificate in &found {
        let facts = Facts::of(certificate)
            .map_err(|reason| anyhow::anyhow!("{}: {reason}", args.file.display()))?;
        late = late.or(facts.check_time(now).err());
        list.push(facts);
    }
    match args.output.output {
        Output::Json => {
            let list: Vec<_> = list.iter().map(to_json).collect();
            println!("{}", serde_json::Value::from(list));
        }
        Output::Text => list.iter().for_each(print),
    }
    match late {
        None => Ok(()),
        Some(_) if args.output.output == Output::Json => Err(Exit::silent(Status::Error).into()),
        Some(reason) => Err(Exit::new(Status::Error, reason).into()),
    }
}

fn print(facts: &Facts) {
    for (name, value) in [
        ("subject", facts.subject.clone()),
        ("issuer", facts.issuer.clone()),
        ("for", facts.names.join(" ")),
        ("roles", facts.roles.join(" ")),
        ("from", date(facts.not_before)),
        ("until", date(facts.not_after)),
        ("sha256", facts.fingerprint.clone()),
    ] {
        println!("{name:<8} {value}");
    }
    println!();
}

fn to_json(facts: &Facts) -> serde_json::Value {
    json!({
        "subject": facts.subject, "issuer": facts.issuer, "names": facts.names, "roles": facts.roles,
        "notBefore": date(facts.not_before), "notAfter": date(facts.not_after), "sha256": facts.fingerprint,
    })
}
