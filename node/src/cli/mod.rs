//! The command line: one binary, one tree of verbs.
//!
//! `start` and `dev` run nodes; `acl`, `doc`, `changes`, `consumer`, `index`, `import`, `export` and `bench` speak to the client port over the public API;
//! `cluster`, `shard`, `database`, `bucket` and `audit` speak to the admin port. Results go to standard output, everything else to standard error.

pub mod acl;
pub mod audit;
pub mod bench;
pub mod bucket;
pub mod cert;
pub mod changes;
pub mod client;
pub mod cluster;
pub mod consumer;
pub mod data;
mod data_keys;
pub mod database;
pub mod dev;
pub mod doc;
pub mod exit;
pub mod export;
pub mod import;
mod in_bucket;
pub mod index;
pub mod man;
pub mod query;
pub mod shard;
pub mod start;
pub mod tls;
pub mod truncate;

use std::future::Future;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::Config;

/// A sharded, replicated document store for web apps.
#[derive(Parser, Clone, Debug)]
#[command(name = "larder", version, about, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done, 1 failed, 2 usage, 3 unavailable or unreachable, 4 degraded, 5 no quorum, \
    6 damaged data, 70 log disk failed, 71 data disk failed, 72 damage beyond repair, \
    78 configuration.\n\n\
    Environment: LARDER_URL and LARDER_ADMIN_URL stand for --url and --admin, LARDER_CA, LARDER_CERT and LARDER_KEY \
    for --ca, --cert and --key.\n\n\
    To begin, with a cluster in one terminal and documents in another:\n  \
    larder dev\n  larder doc put Demo hello '{\"text\":\"hi\"}'\n  larder doc get Demo hello"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    Dev(dev::Dev),
    Start(start::Start),
    Cluster(cluster::Cluster),
    Shard(shard::Shard),
    Database(database::Database),
    Bucket(bucket::Bucket),
    Audit(audit::Audit),
    Doc(doc::Doc),
    Changes(changes::Changes),
    Consumer(consumer::Consumer),
    Index(index::Index),
    Import(import::Import),
    Export(export::Export),
    Truncate(truncate::Truncate),
    Acl(acl::Acl),
    Data(data::Data),
    Cert(cert::Cert),
    Bench(Box<bench::Bench>),
    /// Prints a completion script for a shell
    #[command(after_help = "Examples:\n  \
        larder completions bash > ~/.local/share/bash-completion/completions/larder\n  \
        larder completions zsh > ~/.zfunc/_larder   # with ~/.zfunc in fpath\n  \
        larder completions fish > ~/.config/fish/completions/larder.fish")]
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
    Man(man::Man),
}

/// Parses the command line and runs it; `node` runs a node until it was told to stop.
///
/// `node` decides the exit status with an [`exit::Exit`] in its error; any other error gives status 1.
pub fn main<N, F>(node: N) -> ExitCode
where
    N: FnOnce(Config) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output with status 0, mistakes to standard error with status 2.
            let status = if error.use_stderr() {
                exit::Status::Usage
            } else {
                exit::Status::Ok
            };
            let _ = error.print();
            return ExitCode::from(status as u8);
        }
    };
    match run(cli.command, node) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (status, message) = exit::classify(&error);
            if let Some(message) = message {
                eprintln!("larder: {message}");
            }
            ExitCode::from(status as u8)
        }
    }
}

fn run<N, F>(command: Command, node: N) -> anyhow::Result<()>
where
    N: FnOnce(Config) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    match command {
        Command::Start(start) => {
            let config = start::prepare(&start)?;
            tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?
                .block_on(node(config))
        }
        Command::Bench(bench) => bench::run(&bench),
        Command::Data(data) => data::run(&data),
        Command::Cert(cert) => cert::run(&cert),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "larder", &mut std::io::stdout());
            Ok(())
        }
        Command::Man(man) => man::run(&man, Cli::command()),
        Command::Dev(dev) => on_this_thread(dev::run(dev)),
        Command::Cluster(cluster) => on_this_thread(cluster::run(cluster)),
        Command::Shard(shard) => on_this_thread(shard::run(shard)),
        Command::Database(database) => on_this_thread(database::run(database)),
        Command::Bucket(bucket) => on_this_thread(bucket::run(bucket)),
        Command::Audit(audit) => on_this_thread(audit::run(audit)),
        Command::Doc(doc) => on_this_thread(doc::run(doc)),
        Command::Changes(changes) => on_this_thread(changes::run(changes)),
        Command::Consumer(consumer) => on_this_thread(consumer::run(consumer)),
        Command::Index(index) => on_this_thread(index::run(index)),
        Command::Acl(acl) => on_this_thread(acl::run(acl)),
        Command::Truncate(truncate) => on_this_thread(truncate::run(truncate)),
        Command::Import(import) => on_this_thread(import::run(import)),
        Command::Export(export) => on_this_thread(export::run(export)),
    }
}

/// One thread is enough for a client; and `dev` must start its children on the thread that lives as long as it does.
fn on_this_thread(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every verb with its arguments, defaults and variables.
    fn describe(command: &clap::Command, path: &str, out: &mut String) {
        let path = format!("{path}{}", command.get_name());
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        writeln!(out, "{path}: {about}").unwrap();
        for argument in command
            .get_arguments()
            .filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version"))
        {
            write!(out, "  {argument}").unwrap();
            if let Some(variable) = argument.get_env() {
                write!(out, " [{}]", variable.to_string_lossy()).unwrap();
            }
            let defaults: Vec<_> = argument
                .get_default_values()
                .iter()
                .map(|value| value.to_string_lossy())
                .collect();
            if !defaults.is_empty() && argument.get_action().takes_values() {
                write!(out, " = {}", defaults.join(",")).unwrap();
            }
            out.push('\n');
        }
        for verb in command
            .get_subcommands()
            .filter(|verb| verb.get_name() != "help")
        {
            describe(verb, &format!("{path} "), out);
        }
    }

    #[test]
    fn verbs_and_flags_are_as_recorded() {
        let mut found = String::new();
        let mut command = Cli::command();
        command.build();
        describe(&command, "", &mut found);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/golden/verbs.txt");
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        let recorded = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(
            found, recorded,
            "run with UPDATE_GOLDENFILES=1 and review the diff"
        );
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn examples_of_the_help_texts_parse() {
        for line in [
            "larder dev --nodes 5 --replicas 3 --data /tmp/five --print-ready-json",
            "larder start --config n1.toml",
            "larder cluster init --shards 16 --replicas 3 --root-password-file root.txt",
            "larder cluster status -o json",
            "larder cluster rotate-keys --forget",
            "larder shard status 3",
            "larder database quota",
            "larder database quota v1 --documents 1000000 --bytes 20GiB",
            "larder bucket cache",
            "larder bucket cache Movie --scope public --max 300 --prior 60",
            "larder bucket cache Movie --scope off",
            "larder audit export --from 2026-01-01T00:00:00Z",
            "larder audit verify --data /var/lib/larder",
            "larder shard replace 3 n4 --from n1 --wait 60",
            "larder doc put Demo hello @hello.json --if-match 3",
            "larder doc delete Demo hello --if-match *",
            "larder doc query Movie --filter {\"year\":{\"$gte\":2000}} --sort {\"title\":1} --count 20 -o json",
            "larder doc count Movie --filter {\"genre\":\"Drama\"}",
            "larder doc query Movie --filter {\"year\":2000} --explain",
            "larder changes tail --bucket Movie --filter {\"year\":{\"$gte\":2000}} --from oldest",
            "larder changes tail --bucket Movie --follow",
            "larder doc history Demo hello",
            "larder doc get Demo hello --at AQnj",
            "larder index list Movie",
            "larder index create Movie genre year:desc",
            "larder index create User email --unique",
            "larder index drop Movie genre year:desc",
            "larder index drop Movie --all",
            "larder import movies.json --bucket Movie --create",
            "larder export --bucket Todo --out todo.ndjson",
            "larder truncate --bucket Todo --yes",
            "larder acl check --as /db/User/10 --doc /db/Todo/1 --op write",
            "larder acl check --as 10 --doc /db/Todo --op query -o json",
            "larder doc put Session s1 {} --ttl 30m",
            "larder bench --clients 1,64,256 --workload a",
            "larder bench --mix read=50,update=50,insert=0,scan=0 --protocol grpc --route leader --duration 60s",
            "larder bench --verify --url http://a:1 --url http://b:1",
            "larder data verify /var/lib/larder -o json",
            "larder data verify /var/lib/larder --master-key file:master.key",
            "larder data keys -o json",
            "larder data rotate-key --database shop --admin http://n2:7402",
            "larder data rewrap",
            "larder cert create-ca",
            "larder cert create-node n1 --host 10.0.0.1 --host n1.example.com",
            "larder cert create-client alice --days 30",
            "larder cert show certs/n1.crt -o json",
            "larder doc get --url https://n1:7400 --ca certs/ca.crt Demo hello",
            "larder cluster status --admin https://n1:7402 --ca ca.crt --cert alice.crt --key alice.key",
            "larder completions bash",
            "larder man --dir /tmp/man1",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "larder doc put Demo k {} --insert --if-match 3",
            "larder doc get Demo k --user root",
            "larder dev --shards 12",
            "larder bench --mix read=50",
            "larder bench --workload a --mix read=100",
            "larder start",
            "larder index create Movie",
            "larder database quota v1",
            "larder database quota --documents 3",
            "larder bucket cache Movie",
            "larder bucket cache --scope public",
            "larder audit export --from yesterday",
            "larder index drop Movie",
            "larder index drop Movie year --all",
            "larder doc query Movie --explain --fields a",
            "larder doc get --cert alice.crt Demo k",
            "larder cert create-node n1",
            "larder cert create-node ../n1 --host a",
            "larder data verify /var/lib/larder --master-key 0123",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
