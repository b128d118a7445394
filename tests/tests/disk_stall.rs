//! Promise: a node whose log disk stalls gives its leaders away before clients time out, goes on answering, and leads again only when
//! the disk is well.
//!
//! The stall is real: the node's data lies on a file system of its own, which is frozen. Needs root and loop devices.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::cluster::READY;
use tests::load::Load;
use tests::{Api, Cluster, Options, eventually};

/// Enough for both databases of a small test.
const IMAGE_BYTES: u64 = 512 << 20;
/// The stall is noticed after 500 ms; an election takes less than a second; the rest is for a busy machine.
const TAKEN_OVER: Duration = Duration::from_secs(4);

/// Runs a command; gives whether it succeeded.
fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A mounted file system, thawed and unmounted when dropped.
struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// `None`: it cannot be made here.
    fn mount(at: &Path) -> Option<Disk> {
        let (image, dir) = (at.join("disk.img"), at.join("disk"));
        std::fs::create_dir_all(&dir).ok()?;
        let file = std::fs::File::create(&image).ok()?;
        file.set_len(IMAGE_BYTES).ok()?;
        let (image, target) = (image.to_str()?, dir.to_str()?);
        let made =
            run("mkfs.ext4", &["-q", "-F", image]) && run("mount", &["-o", "loop", image, target]);
        made.then_some(Disk { dir })
    }

    fn path(&self) -> &str {
        self.dir.to_str().expect("a path of ours is text")
    }

    /// Every write stands still from now on.
    fn freeze(&self) {
        assert!(run("fsfreeze", &["-f", self.path()]), "not frozen");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: after a failed test the node may still hold files.
        run("umount", &["-l", self.path()]);
    }
}

/// Thaws even if the test fails: a process that waits for a frozen disk cannot be killed.
struct Thaw<'a>(&'a Disk);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        let mut thaw = Command::new("fsfreeze");
        thaw.args(["-u", self.0.path()]).stderr(Stdio::null());
        let _ = thaw.status();
    }
}

async fn metric(cluster: &Cluster, node: usize, name: &str) -> Option<f64> {
    let text = cluster.admin(node).get("/metrics").send().await.text();
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().last()?.parse().ok()
}

#[tokio::test]
async fn a_node_whose_log_disk_stalls_gives_its_leaders_away() {
    let home = tempfile::TempDir::with_prefix("larder-disk-").expect("temporary folder");
    let Some(disk) = Disk::mount(home.path()) else {
        eprintln!(
            "skipped: a file system that can be frozen needs root, loop devices and mkfs.ext4"
        );
        return;
    };
    let mut cluster = Cluster::start(Options {
        root_password: Some("a stalled disk".to_owned()),
        ..Options::default()
    })
    .await;
    let (slow, other) = (0, 1);
    move_data(&mut cluster, slow, &disk).await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let own = cluster.nodes[slow].id.clone();
    eventually("the node leads", READY, || async {
        (cluster.try_status(other).await?.led_by(&own) > 0).then_some(())
    })
    .await;
    let load = Load::start(&nodes[1..], "Demo", 6, 4);
    load.progress(60, READY).await;

    let thaw = Thaw(&disk);
    disk.freeze();
    let frozen = Instant::now();
    eventually("the node leads nothing", READY, || async {
        let status = cluster.try_status(other).await?;
        let led = status.shards.iter().all(|shard| shard.leader.is_some());
        (led && status.led_by(&own) == 0).then_some(())
    })
    .await;
    let took = frozen.elapsed();
    assert!(took <= TAKEN_OVER, "given away after {took:?}");
    // Everything is written through the others, and the slow node itself passes on what it is asked.
    load.progress(60, READY).await;
    for key in 0..8 {
        let path = format!("/db/Demo/through-{key}");
        let put = nodes[slow].put(&path).json(&json!({ "n": 1 })).send().await;
        assert_eq!(put.status, 200, "{}", put.text());
        nodes[slow].get(&path).send().await.expect(200);
    }
    assert_eq!(
        metric(&cluster, slow, "larder_log_stalled").await,
        Some(1.0)
    );
    assert_eq!(
        metric(&cluster, slow, "larder_log_stalls_total").await,
        Some(1.0)
    );
    assert!(cluster.logged(slow).contains("the log disk stalls"));
    assert!(!cluster.answers(slow, "/readyz").await);

    drop(thaw);
    let thawed = Instant::now();
    // An election that waited for the disk may end now; what it wins is given away at once.
    eventually("the disk is believed to be well", READY, || async {
        let stalled = metric(&cluster, slow, "larder_log_stalled").await?;
        (stalled == 0.0).then_some(())
    })
    .await;
    assert!(
        thawed.elapsed() >= Duration::from_secs(4),
        "it may lead again after {:?}",
        thawed.elapsed()
    );
    eventually("the node leads again", READY, || async {
        (cluster.try_status(other).await?.led_by(&own) > 0).then_some(())
    })
    .await;
    cluster.healthy(READY).await;
    load.stop().await.verify(&nodes).await;
}

/// Puts the data of a node onto the disk.
async fn move_data(cluster: &mut Cluster, node: usize, disk: &Disk) {
    assert_eq!(cluster.stop(node).await, Some(0), "a clean stop");
    let config = cluster.nodes[node].config.clone();
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let line = text
        .lines()
        .find(|line| line.starts_with("data_dir = "))
        .expect("a data directory");
    let old = line.trim_start_matches("data_dir = ").trim_matches('"');
    let new = format!("{}/data", disk.path());
    assert!(run("cp", &["-a", old, &new]), "not copied");
    let text = text.replace(line, &format!("data_dir = {new:?}"));
    std::fs::write(&config, text).expect("a configuration");
    cluster.restart(node).await;
    cluster.healthy(READY).await;
}
