//! Runs the golden scripts: a command of a script is an entry, its output the outcome and then the effects, one in a line.
//!
//! | command | |
//! |---|---|
//! | `index ID DEFINITION` | makes an index known to the script, and prints nothing |
//! | `bucket ID version=N [dropped=true] [indexes=ID,ID]` | tells the shard of a bucket (7 is the one that writes go to) |
//! | `backfill INDEX [page=N] [after=KEY] [upto=KEY] [noting=lists]`, `purge INDEX [page=N]` | a page of work on an index |
//! | `clear BUCKET [page=N] [stamp=US]` | deletes a page of a dropped bucket's documents |
//! | `reserve INDEX FIELDS KEY`, `fence INDEX FIELDS KEY` | for the values that a document with these fields has |
//! | `confirm INDEX FIELDS reserved=N`, `release INDEX FIELDS reserved=N` | likewise |
//! | `update KEY OPERATIONS [max=BYTES] …` | a partial update of the class `Script`: `n` Integer, `at` DateTime, all else open |
//! | `put KEY FIELDS [acl=JSON] [hidden=JSON] [readonly=A,B] [expires=US\|never] …`, `delete KEY …` | one write |
//! | `batch …`, writes, `end` | one entry of several writes; within it writes print nothing |
//! | `trim [kept=US] [bytes=N] [page=N]`, `watermark STAMP` | other entries |
//! | `tick BASE ELAPSED`, `expire kept=US page=N`, `sweep page=N [tick=BASE+ELAPSED]`, `blank`, `membership TEXT`, `raw HEX` | other entries |
//! | `get KEY`, `scan`, `entries INDEX`, `progress INDEX`, `applied`, `changes`, `usage`, `fill BYTES` | look at tables; pretend that idempotency records take so many bytes |
//!
//! Writes take `if=absent\|exists\|VERSION`, `bv=BUCKET_VERSION`, `bucket=ID`, and puts `claim=INDEX prepared=N [of=FIELDS]` (all
//! their values in it, or those of other fields); writes outside a batch and `batch` itself take
//! `as=USER_KEY`, `roles=A,B` (keys), `idem=KEY`, `request=TEXT` (what is fingerprinted), `stamp=US`, `tick=BASE+ELAPSED`. An entry is
//! stamped with its index in seconds unless it says otherwise.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::{Bound, ControlFlow};
use std::path::Path;

use bytes::Bytes;
use document::index::{Index, Range};
use goldenscript::{ArgumentConsumer, Context};
use proto::log::command::Operation;
use proto::log::mutation::Operation as MutationOperation;
use proto::log::precondition::Condition;
use proto::log::{self, Command, Mutation};

use super::harness::{self, BUCKET, DATABASE, Node};
use super::show;
use crate::codec;
use crate::engine::{Batch, Column, Direction, Engine as _};
use crate::keys::{self, IdempotencyUsageKey};
use crate::machine::Payload;
use crate::machine::outcome::Outcome;
use crate::tables::{change_log, documents, idempotency, indexes};

type Output = Result<String, Box<dyn Error>>;

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/machine/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .map(|file| file.expect("reads").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let mut runner = Runner {
            node: Node::new(1),
            batch: None,
            indexes: BTreeMap::new(),
        };
        goldenscript::run(&mut runner, &path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

struct Runner {
    node: Node,
    /// The batch that writes are collected for.
    batch: Option<(Envelope, Vec<Mutation>)>,
    /// Indexes that the script knows.
    indexes: BTreeMap<u32, Index>,
}

/// What surrounds the mutations of an entry.
struct Envelope {
    principal: log::Principal,
    idempotency: Option<log::Idempotency>,
    stamp_us: u64,
    tick: Option<log::Tick>,
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Output {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "put" => {
                let mutation = self.put(&mut args)?;
                self.write(&mut args, mutation)?
            }
            "update" => {
                let mutation = update(&mut args)?;
                self.write(&mut args, mutation)?
            }
            "delete" => {
                let key = args.next_pos().ok_or("no key")?.to_owned();
                let mutation = mutation(&mut args, &key, harness::delete())?;
                self.write(&mut args, mutation)?
            }
            "batch" => {
                self.batch = Some((self.envelope(&mut args)?, Vec::new()));
                String::new()
            }
            "end" => {
                let (envelope, mutations) = self.batch.take().ok_or("no batch")?;
                let batch = harness::batch(
                    envelope.stamp_us,
                    envelope.principal,
                    envelope.idempotency,
                    mutations,
                );
                self.command(Command {
                    tick: envelope.tick,
                    ..batch
                })?
            }
            "bucket" => {
                let bucket = args.next_pos().ok_or("no bucket")?.parse()?;
                let dropped = args.take_key("dropped").is_some();
                let version = args.take_key("version").ok_or("no version")?.parse()?;
                let mut bucket = harness::bucket(bucket, version, dropped);
                for id in list(args.take_key("indexes")) {
                    let id = id.parse()?;
                    let definition = self.index(id)?.to_bytes().into();
                    bucket.indexes.push(log::Index { id, definition });
                }
                let buckets = vec![bucket];
                self.command(harness::command(
                    0,
                    Operation::SetBuckets(log::SetBuckets { buckets }),
                ))?
            }
            "index" => {
                let id = args.next_pos().ok_or("no index")?.parse()?;
                let index = harness::index(args.next_pos().ok_or("no definition")?);
                self.indexes.insert(id, index);
                String::new()
            }
            "backfill" => {
                let backfill = log::BackfillIndex {
                    database: DATABASE,
                    bucket: BUCKET,
                    index: args.next_pos().ok_or("no index")?.parse()?,
                    page: args.take_key("page").unwrap_or("100").parse()?,
                    after: args.take_key("after").map(str::to_owned),
                    upto: args.take_key("upto").unwrap_or_default().to_owned(),
                };
                let operation = match args.take_key("noting").is_some() {
                    true => Operation::BackfillNotingLists(backfill),
                    false => Operation::BackfillIndex(backfill),
                };
                self.command(harness::command(0, operation))?
            }
            "purge" => {
                let index = args.next_pos().ok_or("no index")?.parse()?;
                let page = args.take_key("page").unwrap_or("100").parse()?;
                self.command(harness::purge(index, page))?
            }
            "clear" => {
                let bucket = args.next_pos().ok_or("no bucket")?.parse()?;
                let page = args.take_key("page").unwrap_or("100").parse()?;
                let envelope = self.envelope(&mut args)?;
                self.command(Command {
                    tick: envelope.tick,
                    ..harness::clear(envelope.stamp_us, bucket, page)
                })?
            }
            name @ ("reserve" | "confirm" | "release" | "fence") => {
                let operations = self.on_values(name, &mut args)?;
                let outputs = operations
                    .into_iter()
                    .map(|operation| self.command(harness::command(0, operation)));
                outputs.collect::<Result<Vec<_>, _>>()?.join("\n")
            }
            "entries" => self.entries(args.next_pos().ok_or("no index")?.parse()?)?,
            "progress" => {
                let index = args.next_pos().ok_or("no index")?.parse()?;
                let progress = indexes::progress(&self.node.replica, DATABASE, BUCKET, index)?;
                show::outcome(&Outcome::Progress(progress))
            }
            "tick" => {
                let base_us = args.next_pos().ok_or("no base")?.parse()?;
                let elapsed_us = args.next_pos().ok_or("no elapsed")?.parse()?;
                let tick = Some(log::Tick {
                    base_us,
                    elapsed_us,
                    commit_index: 0,
                });
                self.command(Command {
                    tick,
                    stamp_us: 0,
                    operation: Some(Operation::Idle(log::Idle {})),
                })?
            }
            "expire" => {
                let kept_us = args.take_key("kept").ok_or("no kept")?.parse()?;
                let page = args.take_key("page").ok_or("no page")?.parse()?;
                self.command(harness::command(
                    0,
                    Operation::ExpireIdempotency(log::ExpireIdempotency { kept_us, page }),
                ))?
            }
            "sweep" => {
                let page = args.take_key("page").ok_or("no page")?.parse()?;
                let envelope = self.envelope(&mut args)?;
                self.command(Command {
                    tick: envelope.tick,
                    stamp_us: envelope.stamp_us,
                    operation: Some(Operation::ExpireDocuments(log::ExpireDocuments { page })),
                })?
            }
            "trim" => {
                let kept_us = args.take_key("kept").unwrap_or("1000000000").parse()?;
                let bytes_max = args.take_key("bytes").unwrap_or("1000000").parse()?;
                let page = args.take_key("page").unwrap_or("100").parse()?;
                let trim = log::TrimChanges {
                    kept_us,
                    bytes_max,
                    page,
                };
                self.command(harness::command(0, Operation::TrimChanges(trim)))?
            }
            "watermark" => {
                let stamp_us = args.next_pos().ok_or("no stamp")?.parse()?;
                let watermark = Operation::Watermark(log::Watermark {});
                self.command(harness::command(stamp_us, watermark))?
            }
            "changes" => self.changes()?,
            "blank" => format!("{:?}", self.node.apply(Payload::Blank)?),
            "membership" => {
                let text = args.next_pos().ok_or("no text")?;
                format!(
                    "{:?}",
                    self.node
                        .apply(Payload::Membership(Bytes::copy_from_slice(text.as_bytes())))?
                )
            }
            "raw" => {
                let bytes = hex(args.next_pos().unwrap_or_default())?;
                format!("{:?}", self.node.apply(Payload::Command(bytes.into()))?)
            }
            "get" => self.get(args.next_pos().ok_or("no key")?)?,
            "scan" => self.scan()?,
            "applied" => self.applied(),
            "usage" => format!("{:?}", idempotency::usage(&self.node.replica.view())?),
            "fill" => self.fill(args.next_pos().ok_or("no bytes")?.parse()?)?,
            name => return Err(format!("no command {name}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

impl Runner {
    fn envelope(&self, args: &mut ArgumentConsumer<'_>) -> Result<Envelope, Box<dyn Error>> {
        let user = args
            .take_key("as")
            .map(|key| format!("/db/User/{key}"))
            .unwrap_or_default();
        let roles = list(args.take_key("roles"))
            .iter()
            .map(|key| format!("/db/Role/{key}"))
            .collect();
        let request = args.take_key("request").unwrap_or("the request");
        let idempotency = args
            .take_key("idem")
            .map(|key| harness::idempotency(key, request));
        let stamp_us = args.take_key("stamp").map(str::parse).transpose()?;
        let tick = args
            .take_key("tick")
            .map(|tick| tick.split_once('+').ok_or("no elapsed"))
            .transpose()?;
        let tick = tick.map(|(base, elapsed)| -> Result<_, Box<dyn Error>> {
            Ok(log::Tick {
                base_us: base.parse()?,
                elapsed_us: elapsed.parse()?,
                commit_index: 0,
            })
        });
        Ok(Envelope {
            principal: log::Principal { user, roles },
            idempotency,
            stamp_us: stamp_us.unwrap_or(self.node.next_id().index * 1_000_000),
            tick: tick.transpose()?,
        })
    }

    fn write(&mut self, args: &mut ArgumentConsumer<'_>, mutation: Mutation) -> Output {
        if let Some((_, mutations)) = &mut self.batch {
            mutations.push(mutation);
            return Ok(String::new());
        }
        let envelope = self.envelope(args)?;
        let write = harness::write(
            envelope.stamp_us,
            envelope.principal,
            envelope.idempotency,
            mutation,
        );
        self.command(Command {
            tick: envelope.tick,
            ..write
        })
    }

    fn command(&self, command: Command) -> Output {
        let index = self.node.next_id().index;
        let outcome = self.node.outcome(&command)?;
        let mut lines = vec![format!("[{index}] {}", show::outcome(&outcome))];
        lines.extend(
            self.node
                .recorder
                .0
                .lock()
                .drain(..)
                .map(|effect| format!("  {effect}")),
        );
        Ok(lines.join("\n"))
    }

    fn index(&self, id: u32) -> Result<&Index, Box<dyn Error>> {
        Ok(self.indexes.get(&id).ok_or("unknown index")?)
    }

    /// A command for each value that a document with the given fields has.
    fn on_values(
        &self,
        name: &str,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<Vec<Operation>, Box<dyn Error>> {
        let id = args.next_pos().ok_or("no index")?.parse()?;
        let fields = args.next_pos().ok_or("no fields")?;
        let owner = args.next_pos().unwrap_or_default().to_owned();
        let reserved = args.take_key("reserved").unwrap_or_default();
        let reserved = reserved.parse().unwrap_or_default();
        let hashes = harness::hashes(self.index(id)?, fields);
        let operation = |hash| {
            let (value, owner) = (harness::value(id, hash), owner.clone());
            match name {
                "reserve" => Operation::ReserveValue(log::ReserveValue { value, owner }),
                "fence" => Operation::FenceClaims(log::FenceClaims { value, owner }),
                "confirm" => Operation::ConfirmValue(log::ConfirmValue { value, reserved }),
                _ => Operation::ReleaseValue(log::ReleaseValue { value, reserved }),
            }
        };
        Ok(hashes.iter().map(operation).collect())
    }

    fn put(&self, args: &mut ArgumentConsumer<'_>) -> Result<Mutation, Box<dyn Error>> {
        let (claim, prepared) = (args.take_key("claim"), args.take_key("prepared"));
        let of = args.take_key("of").map(str::to_owned);
        let (mut mutation, fields) = put(args)?;
        if let Some(index) = claim {
            let index = index.parse()?;
            let claims = harness::hashes(self.index(index)?, of.as_ref().unwrap_or(&fields));
            let claims = claims.iter().map(|hash| log::Claim {
                index,
                value: Bytes::copy_from_slice(hash),
            });
            mutation.claims = Some(log::Claims {
                prepared: prepared.ok_or("no prepared")?.parse()?,
                claims: claims.collect(),
            });
        }
        Ok(mutation)
    }

    /// The entries of an index as readers see them.
    fn entries(&self, id: u32) -> Output {
        let view = self.node.replica.view();
        let all = indexes::of_bucket(&view, DATABASE, BUCKET)?;
        let Some(index) = all.into_iter().find(|index| index.id == id) else {
            return Ok("no such index".to_owned());
        };
        let mut lines = vec![if index.complete {
            "complete".to_owned()
        } else {
            "not to be read".to_owned()
        }];
        let everything = Range {
            from: Vec::new(),
            to: Vec::new(),
        };
        let each = &mut |entry: indexes::IndexEntry<'_>| {
            let public = if entry.is_public { "" } else { " restricted" };
            let value = entry.value.escape_ascii();
            lines.push(format!("{value} {:?}{public}", entry.key));
            Ok(ControlFlow::Continue(()))
        };
        indexes::visit(
            &view,
            DATABASE,
            BUCKET,
            &index,
            &everything,
            Direction::Forward,
            each,
        )?;
        Ok(lines.join("\n"))
    }

    fn get(&self, key: &str) -> Output {
        Ok(
            match documents::get(&self.node.replica, DATABASE, BUCKET, key)? {
                Some(record) => format!("v{} {}", record.version, show::text(&record.body)),
                None => "absent".to_owned(),
            },
        )
    }

    fn scan(&self) -> Output {
        let view = self.node.replica.view();
        let all = documents::scan(&view, DATABASE, BUCKET, Bound::Unbounded)
            .map(|document| document.map(|(key, record)| format!("{key} v{}", record.version)));
        Ok(all.collect::<Result<Vec<_>, _>>()?.join("\n"))
    }

    /// Where the change log begins, what it takes, and T of its first event.
    fn changes(&self) -> Output {
        let trimmed = self.node.replica.applied().changes.trimmed;
        let usage = change_log::usage(&self.node.replica.view())?;
        let oldest = usage
            .oldest_us
            .map_or("none".to_owned(), |us| format!("T{us}"));
        Ok(format!(
            "behind {}.{}, {} bytes, oldest {oldest}",
            trimmed.index, trimmed.ordinal, usage.bytes
        ))
    }

    fn applied(&self) -> String {
        let applied = self.node.replica.applied();
        let id = applied.id.map_or("none".to_owned(), |id| id.to_string());
        let membership = applied.membership.map_or("none".to_owned(), |(id, bytes)| {
            let at = id.map_or("nowhere".to_owned(), |id| id.to_string());
            format!("{} at {at}", show::text(&bytes))
        });
        format!(
            "id={id} T={} stamp={} membership={membership}",
            applied.time_us, applied.last_stamp_us
        )
    }

    fn fill(&self, bytes: u64) -> Output {
        let key = keys::with_store(self.node.replica.store(), &IdempotencyUsageKey.encode());
        let mut batch = Batch::new();
        batch.put(
            Column::State,
            key,
            codec::encode(&idempotency::UsageRow(bytes))?,
        );
        self.node.engine.write(batch)?;
        Ok(String::new())
    }
}

/// The mutation, and the fields that it puts.
fn put(args: &mut ArgumentConsumer<'_>) -> Result<(Mutation, String), Box<dyn Error>> {
    let (key, fields) = (
        args.next_pos().ok_or("no key")?,
        args.next_pos().unwrap_or_default(),
    );
    let put = log::Put {
        fields: Bytes::copy_from_slice(fields.as_bytes()),
        acl: args.take_key("acl").unwrap_or_default().to_owned(),
        hidden: Bytes::copy_from_slice(args.take_key("hidden").unwrap_or_default().as_bytes()),
        readonly: list(args.take_key("readonly")),
        expiry: expiry(args)?,
    };
    let mutation = mutation(args, key, MutationOperation::Put(put))?;
    Ok((mutation, fields.to_owned()))
}

fn update(args: &mut ArgumentConsumer<'_>) -> Result<Mutation, Box<dyn Error>> {
    let (key, operations) = (
        args.next_pos().ok_or("no key")?,
        args.next_pos().ok_or("no operations")?,
    );
    let bytes_max = args.take_key("max").map(str::parse).transpose()?;
    let update = harness::update(operations, bytes_max.unwrap_or(1_000_000));
    mutation(args, key, update)
}

fn mutation(
    args: &mut ArgumentConsumer<'_>,
    key: &str,
    operation: MutationOperation,
) -> Result<Mutation, Box<dyn Error>> {
    let condition = match args.take_key("if") {
        None => None,
        Some("absent") => Some(Condition::Absent(true)),
        Some("exists") => Some(Condition::Exists(true)),
        Some(version) => Some(Condition::Version(version.parse()?)),
    };
    let mut mutation = harness::mutation(key, condition, operation);
    if let Some(bucket) = args.take_key("bucket") {
        mutation.bucket = bucket.parse()?;
    }
    if let Some(version) = args.take_key("bv") {
        mutation.bucket_version = version.parse()?;
    }
    Ok(mutation)
}

fn expiry(args: &mut ArgumentConsumer<'_>) -> Result<Option<log::Expiry>, Box<dyn Error>> {
    let at_us = match args.take_key("expires") {
        None => return Ok(None),
        Some("never") => None,
        Some(at_us) => Some(at_us.parse()?),
    };
    Ok(Some(log::Expiry { at_us }))
}

fn list(text: Option<&str>) -> Vec<String> {
    text.map(|text| text.split(',').map(str::to_owned).collect())
        .unwrap_or_default()
}

fn hex(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let digits = |at: usize| text.get(at..at + 2).ok_or("odd number of digits");
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(digits(at)?, 16)?))
        .collect()
}
