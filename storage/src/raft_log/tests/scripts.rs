//! Golden scripts: what a log shows, and what lies on the disk, step by step. `UPDATE_GOLDENFILES=1` rewrites them.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Command, Context};
use rocksdb::IteratorMode;
use tempfile::TempDir;

use super::{crash, entry, id, open, settle};
use crate::ids::{LogId, StoreId, Vote};
use crate::raft_log::writer::wait;
use crate::raft_log::{GroupLog, Logs, layout};

#[test]
fn scripts_give_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft_log/scripts");
    for name in ["life_of_a_log", "installed_snapshot"] {
        let dir = tempfile::tempdir().unwrap();
        let logs = open(dir.path());
        goldenscript::run(&mut Runner { dir, logs }, folder.join(name)).unwrap();
    }
}

struct Runner {
    dir: TempDir,
    logs: Logs,
}

impl Runner {
    fn log(&self, context: &Context) -> GroupLog {
        let store = context
            .prefix
            .as_deref()
            .map_or(1, |prefix| prefix.parse().unwrap());
        self.logs.group(StoreId(store)).unwrap()
    }

    fn restart_on(&mut self, dir: TempDir) {
        self.logs = open(dir.path());
        self.dir = dir;
    }

    fn disk(&self) -> String {
        let after = crash(self.dir.path());
        let db = rocksdb::DB::open_default(after.path()).unwrap();
        let mut out = String::new();
        for pair in db.iterator(IteratorMode::Start) {
            let (key, value) = pair.unwrap();
            let fields = layout::unseal(&key, &value).unwrap();
            let shown = if key[..9] == [0, 0, 0, 0, 0, 0, 0, 0, 2] {
                "(random)".to_owned()
            } else {
                hex(fields)
            };
            let row = [&key[..8], &key[8..9], &key[9..]].map(hex).join(" ");
            writeln!(
                out,
                "{}",
                format!("{} = {shown}", row.trim_end()).trim_end()
            )
            .unwrap();
        }
        out
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn show(id: Option<LogId>) -> String {
    id.map_or_else(|| "none".to_owned(), |id| id.to_string())
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let log = self.log(context);
        let mut args = command.consume_args();
        let mut number =
            |key: &str, default: u64| args.take_key(key).map_or(Ok(default), str::parse);
        match command.name.as_str() {
            "append" => {
                let (term, from, count) =
                    (number("term", 1)?, number("from", 0)?, number("count", 1)?);
                let (done, written) = wait();
                log.append(
                    (from..from + count)
                        .map(|index| entry(term, index, 2))
                        .collect(),
                    done,
                )?;
                written()?;
            }
            "vote" => {
                let (done, written) = wait();
                log.save_vote(
                    Vote {
                        term: number("term", 1)?,
                        replica: number("replica", 1)?,
                        committed: false,
                    },
                    done,
                )?;
                written()?;
            }
            "commit" => log.save_committed(Some(id(number("term", 1)?, number("index", 0)?))),
            "truncate" => log.truncate_after(Some(id(number("term", 1)?, number("after", 0)?)))?,
            "purge" => log.purge(id(number("term", 1)?, number("upto", 0)?))?,
            "settle" => settle(&log),
            "create" => drop(
                self.logs
                    .directory()
                    .create_replica(proto::ShardId(1), proto::ReplicaId(7))?,
            ),
            "receive" => {
                return Ok(self
                    .logs
                    .directory()
                    .begin_receive(proto::ShardId(1))?
                    .to_string());
            }
            "finish" => {
                let (store, last) = (
                    StoreId(number("store", 0)?),
                    id(number("term", 1)?, number("last", 0)?),
                );
                self.logs
                    .directory()
                    .finish_receive(proto::ShardId(1), store, last)?;
            }
            "crash" => self.restart_on(crash(self.dir.path())),
            "disk" => return Ok(self.disk()),
            "show" => {
                let state = log.state();
                let entries = log.read(0, u64::MAX, usize::MAX)?;
                let entries = entries
                    .iter()
                    .map(|entry| entry.id.to_string())
                    .collect::<Vec<_>>()
                    .join(" ");
                let vote = state.vote.map_or("none".to_owned(), |vote| {
                    format!("{} for {}", vote.term, vote.replica)
                });
                let ends = [state.committed, state.purged, state.last].map(show);
                return Ok(format!(
                    "vote {vote}, committed {}, purged {}, last {}\n{entries}",
                    ends[0], ends[1], ends[2]
                ));
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(String::new())
    }
}
