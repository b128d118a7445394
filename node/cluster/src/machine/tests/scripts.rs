//! Runs the scripts. `UPDATE_GOLDENFILES=1` writes what they print now.

mod consumers;

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::Write as _;

use document::acl::Principal;
use goldenscript::{Command, Context};
use proto::ReplicaId;
use proto::log::{self, CreateIndex, DropIndexes, SetIndexState};

use super::*;
use crate::state::{Database, IndexInfo};

/// Runs the commands of a script against one group. After each: the outcome and the rows that changed.
struct Script(Group);

impl Script {
    fn operation(&self, command: &Command) -> Result<Option<Operation>, Box<dyn StdError>> {
        let mut args = command.consume_args();
        let operation = match command.name.as_str() {
            "init" => Operation::InitCluster(self.init(&mut args)?),
            "announce" => {
                let node = NodeCommand {
                    id: args.take_key("id").ok_or("id")?.parse()?,
                    name: args.take_key("name").unwrap_or_default().to_owned(),
                    zone: args.take_key("zone").unwrap_or_default().to_owned(),
                    client_address: args.take_key("client").unwrap_or_default().to_owned(),
                    peer_address: args.take_key("peer").unwrap_or_default().to_owned(),
                    weight: args.take_key("weight").unwrap_or("0").parse()?,
                };
                Operation::AnnounceNode(AnnounceNode { node: Some(node) })
            }
            "post" | "put" | "drop" | "bytes" => {
                Operation::SetSchema(self.schema(&command.name, &mut args)?)
            }
            "create" => Operation::CreateIndex(CreateIndex {
                database: 1,
                bucket: self.bucket(args.take_key("bucket").ok_or("bucket")?),
                definition: args
                    .next_pos()
                    .ok_or("definition")?
                    .as_bytes()
                    .to_vec()
                    .into(),
                secret: vec![7; args.take_key("secret").unwrap_or("0").parse()?].into(),
            }),
            "drop_index" => Operation::DropIndexes(DropIndexes {
                database: 1,
                bucket: self.bucket(args.take_key("bucket").ok_or("bucket")?),
                definition: args
                    .next_pos()
                    .unwrap_or_default()
                    .as_bytes()
                    .to_vec()
                    .into(),
            }),
            "index_state" => Operation::SetIndexState(SetIndexState {
                database: 1,
                index: args.take_key("id").ok_or("id")?.parse()?,
                state: match args.next_pos().ok_or("state")? {
                    "building" => log::IndexState::Building,
                    "ready" => log::IndexState::Ready,
                    "failed" => log::IndexState::Failed,
                    _ => log::IndexState::Dropped,
                } as i32,
                reason: args.take_key("reason").unwrap_or_default().to_owned(),
            }),
            "fence" => Operation::ConfirmFence(ConfirmFence {
                database: args.take_key("database").unwrap_or("1").parse()?,
                version: args.next_pos().ok_or("version")?.parse()?,
            }),
            "replace" => Operation::ReplaceReplica(ReplaceReplica {
                shard: args.take_key("shard").ok_or("shard")?.parse()?,
                old_replica: args.take_key("old").ok_or("old")?.parse()?,
                node: args.take_key("node").ok_or("node")?.parse()?,
            }),
            "confirm" => Operation::ConfirmReplaced(ConfirmReplaced {
                shard: args.take_key("shard").ok_or("shard")?.parse()?,
                old_replica: args.take_key("old").ok_or("old")?.parse()?,
            }),
            "bootstrapped" => Operation::SetBootstrapped(SetBootstrapped {}),
            "consumer" | "drop_consumer" | "ack" | "run" => {
                consumers::operation(&command.name, &mut args)?
            }
            _ => return Ok(None),
        };
        args.reject_next()?;
        Ok(Some(operation))
    }

    /// The id of a bucket by name, live or dropped; 99: there is none.
    fn bucket(&self, name: &str) -> u32 {
        let state = self.0.state();
        let buckets = state.database("").map(Database::pending_buckets);
        let buckets = buckets.unwrap_or_default();
        let found = buckets.iter().rev().find(|bucket| bucket.name == name);
        found.map_or(99, |bucket| bucket.bucket)
    }

    /// `init [shards=N] [replicas=N] [key=BYTES] [demo] ID[@ZONE] …`
    fn init(
        &self,
        args: &mut goldenscript::ArgumentConsumer<'_>,
    ) -> Result<InitCluster, Box<dyn StdError>> {
        let mut command = init_command(&[], 4, 3);
        command.cluster_id = args.take_key("cluster").unwrap_or("c1").to_owned();
        command.shards = args.take_key("shards").unwrap_or("4").parse()?;
        command.replicas = args.take_key("replicas").unwrap_or("3").parse()?;
        command.signing_key = vec![7; args.take_key("key").unwrap_or("32").parse()?].into();
        let weight: u32 = args.take_key("weight").unwrap_or("0").parse()?;
        while let Some(word) = args.next_pos() {
            if word == "demo" {
                command.demo = true;
                continue;
            }
            let (id, zone) = word.split_once('@').unwrap_or((word, ""));
            command.nodes.push(NodeCommand {
                weight,
                ..node_command(id.parse()?, zone)
            });
        }
        Ok(command)
    }

    /// `post JSON`, `put JSON`, `drop CLASS` on the present schema, or `bytes TEXT` as the schema; `expected=N`, else the present version.
    fn schema(
        &self,
        name: &str,
        args: &mut goldenscript::ArgumentConsumer<'_>,
    ) -> Result<SetSchema, Box<dyn StdError>> {
        let state = self.0.state();
        let (version, old) = state.database("").map_or((0, Schema::system()), |d| {
            (d.schema_version, (*d.schema).clone())
        });
        let expected = args.take_key("expected").map_or(Ok(version), str::parse)?;
        let what = args.next_pos().ok_or("argument")?;
        let root = Principal::root();
        let new = match name {
            "post" => old.merge(&Schema::parse_changes(what.as_bytes())?, &root)?,
            "put" => old.replace(&Schema::parse_changes(what.as_bytes())?, &root)?,
            "drop" => old.drop_class(what, &root)?,
            _ => {
                return Ok(SetSchema {
                    database: 1,
                    expected_version: expected,
                    schema: what.as_bytes().to_vec().into(),
                });
            }
        };
        Ok(set_schema_command(&state, expected, &new))
    }

    fn show(&self, what: &str) -> String {
        let state = self.0.state();
        let mut out = String::new();
        match what {
            "state" => show_state(&mut out, &state),
            "nodes" => {
                for (id, node) in &state.nodes {
                    let Node {
                        name,
                        zone,
                        client_address,
                        peer_address,
                        weight,
                    } = node;
                    let _ = writeln!(
                        out,
                        "{} {name:?} zone={zone:?} {client_address} {peer_address} weight={weight}",
                        id.0
                    );
                }
            }
            "placement" => {
                for (shard, list) in &state.placement {
                    let list: Vec<_> = list
                        .iter()
                        .map(|a| format!("{}@{}", a.replica, a.node.0))
                        .collect();
                    let voters = state.voters(*shard).len();
                    let under_way = state.replacement(*shard).map_or_else(String::new, |r| {
                        format!(", {} leaves for {}", r.old.replica, r.new.replica)
                    });
                    let list = list.join(" ");
                    let _ = writeln!(out, "{shard}: {list} ({voters} voters){under_way}");
                }
            }
            "retired" => {
                let shard = ShardId(1);
                let ids = (1..state.next_replica + 2).map(ReplicaId);
                let retired = ids.filter(|id| state.is_retired(shard, *id));
                let retired: Vec<_> = retired.map(|id| id.to_string()).collect();
                let founding = state.is_founding(shard);
                let _ = writeln!(
                    out,
                    "not of shard 1: {}; founding: {founding}",
                    retired.join(" ")
                );
            }
            "indexes" => {
                let database = state.database("").map(|database| {
                    let told = database.pending_buckets();
                    let told = told.iter().flat_map(|bucket| &bucket.indexes);
                    let told: Vec<_> = told.map(|index| index.id.to_string()).collect();
                    (database.indexes.clone(), told.join(" "))
                });
                let (indexes, told) = database.unwrap_or_default();
                for index in indexes.values() {
                    let IndexInfo {
                        id,
                        bucket,
                        definition,
                        state,
                        reason,
                        ..
                    } = index;
                    let line = format!(
                        "{id} of bucket {bucket}: {definition} {} {reason}",
                        state.name()
                    );
                    let _ = writeln!(out, "{}", line.trim_end());
                }
                let _ = writeln!(out, "kept up: {told}");
            }
            "consumers" => out.push_str(&consumers::show(&self.0)),
            "buckets" => {
                for bucket in state
                    .database("")
                    .map(Database::pending_buckets)
                    .unwrap_or_default()
                {
                    let dropped = if bucket.dropped { " dropped" } else { "" };
                    let _ = writeln!(
                        out,
                        "{} {} version={}{dropped}",
                        bucket.bucket, bucket.name, bucket.version
                    );
                }
            }
            _ => {
                for (name, value) in self.0.rows() {
                    let _ = writeln!(out, "{name}: {}", String::from_utf8_lossy(&value[1..]));
                }
            }
        }
        out
    }
}

fn show_state(out: &mut String, state: &ClusterState) {
    let ClusterState {
        cluster_id,
        epoch,
        version,
        shards,
        replicas,
        bootstrapped,
        demo,
        ..
    } = state;
    let _ = writeln!(
        out,
        "version {version}: cluster {cluster_id:?}, epoch {epoch}, {shards} shards, {replicas} replicas"
    );
    let _ = writeln!(
        out,
        "bootstrapped={bootstrapped} demo={demo} key={} bytes",
        state
            .signing_keys
            .current()
            .map_or(0, |key| key.secret.len())
    );
    for database in state.databases.values() {
        let Database {
            id,
            name,
            schema_version,
            fenced_version,
            ..
        } = database;
        let pending = if database.is_pending() {
            " (pending)"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "database {id} {name:?}: schema {schema_version}, fenced {fenced_version}{pending}"
        );
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn StdError>> {
        let Some(operation) = self.operation(command)? else {
            if command.name == "restart" {
                self.0.restart();
                return Ok(format!("published version {}\n", self.0.state().version));
            }
            return Ok(self.show(&command.name));
        };
        let before = self.0.rows();
        let outcome = match self.0.apply(operation) {
            MetaOutcome::Done => "done".to_owned(),
            MetaOutcome::Rejected(MetaRejection::Invalid(reason)) => format!("invalid: {reason}"),
            MetaOutcome::Rejected(rejection) => format!("rejected: {rejection}"),
        };
        let after = self.0.rows();
        let changed: Vec<_> = after
            .iter()
            .filter(|(name, row)| before.get(*name) != Some(row))
            .map(|(name, _)| &**name)
            .collect();
        assert!(
            before.keys().all(|name| after.contains_key(name)),
            "rows are never removed"
        );
        let version = self.0.state().version;
        Ok(match changed.as_slice() {
            [] => format!(
                "{}: {outcome}; version {version}, nothing changed\n",
                self.0.index
            ),
            names if names.len() > 8 => format!(
                "{}: {outcome}; version {version}, {} rows\n",
                self.0.index,
                names.len()
            ),
            names => format!(
                "{}: {outcome}; version {version}, {}\n",
                self.0.index,
                names.join(", ")
            ),
        })
    }
}

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() -> std::io::Result<()> {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/machine/scripts/", stringify!($name));
            goldenscript::run(&mut Script(Group::new()), path)
        }
    )*};
}

scripts! { init init_refused schema announce replace rows indexes sensitive consumers }

#[test]
fn every_script_is_run() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/machine/scripts");
    let files = std::fs::read_dir(dir)
        .expect("the directory")
        .map(|file| file.expect("an entry").file_name());
    let files: BTreeSet<String> = files
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let run = [
        "init",
        "init_refused",
        "schema",
        "announce",
        "replace",
        "rows",
        "indexes",
        "sensitive",
        "consumers",
    ]
    .map(str::to_owned);
    assert_eq!(files, BTreeSet::from(run));
}
