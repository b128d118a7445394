//! Promise: `docs/cluster.md` works, line by line: three nodes in three network namespaces, losing one, getting it back.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{binary, process, repository};

const PAGE: &str = "docs/cluster.md";
const DEADLINE: Duration = Duration::from_secs(200);
const HOSTS: [&str; 3] = ["larder1", "larder2", "larder3"];
const BRIDGE: &str = "larder0";

#[test]
fn the_page_about_clusters_works_as_written() {
    if !is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let page = std::fs::read_to_string(repository().join(PAGE)).expect("the page");
    let blocks = shell_blocks(&page);
    assert!(
        blocks.len() >= 10,
        "{PAGE} has {} blocks of commands",
        blocks.len()
    );
    let dir = tempfile::tempdir().expect("temporary folder");
    prepare(dir.path());
    let _hosts = Hosts;
    take_down();

    // One shell for all, so that a step can build on the one before.
    let script: String = blocks
        .iter()
        .enumerate()
        .map(|(number, block)| format!("{block}\necho \"block {number} done\"\n"))
        .collect();
    let mut bash = Command::new("bash");
    bash.args(["-eu", "-o", "pipefail", "-c", &script])
        .current_dir(dir.path())
        .stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LARDER_")) {
        bash.env_remove(name);
    }
    let path = std::env::var("PATH").unwrap_or_default();
    bash.env(
        "PATH",
        format!(
            "{}:/usr/sbin:/sbin:{path}",
            dir.path().join("bin").display()
        ),
    );
    let ended = process::run_to_end(bash, DEADLINE);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ended.status != 0 {
        process::print_tails(dir.path());
    }
    let done = text(&ended.stdout)
        .lines()
        .filter(|line| line.starts_with("block "))
        .count();
    let failed = blocks.get(done).map(String::as_str).unwrap_or_default();
    assert_eq!(
        ended.status,
        0,
        "failed in block {done}:\n{failed}\n--- output\n{}\n{}",
        text(&ended.stdout),
        text(&ended.stderr)
    );
    assert_eq!(done, blocks.len());
    check_statuses(dir.path());
    check_documents(&text(&ended.stdout));
    for number in 1..=3 {
        let pid =
            std::fs::read_to_string(dir.path().join(format!("data/n{number}.pid"))).expect("a pid");
        assert!(
            !process::is_alive(pid.trim().parse().expect("a number")),
            "node {number} lives on"
        );
    }
    let namespaces = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .expect("ip runs");
    assert!(
        !text(&namespaces.stdout).contains("larder"),
        "the page takes down what it made"
    );
}

/// The effective user owns the process's entry.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The commands between ```` ```sh ```` and ```` ``` ````.
fn shell_blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in page.lines() {
        match (line, &mut open) {
            ("```sh", None) => open = Some(String::new()),
            ("```", Some(_)) => blocks.extend(open.take()),
            (line, Some(block)) => {
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    blocks
}

/// A folder that looks like the root of the repository, with a `larder` that notes how `cluster status` ended.
fn prepare(dir: &Path) {
    let samples = dir.join("configs/three-node");
    std::fs::create_dir_all(&samples).expect("a folder");
    for name in ["n1.toml", "n2.toml", "n3.toml"] {
        std::fs::copy(
            repository().join("configs/three-node").join(name),
            samples.join(name),
        )
        .expect("a copy");
    }
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    let (larder, statuses) = (binary::larder(), dir.join("statuses"));
    let wrapper = format!(
        "#!/bin/sh\nif [ \"$1 ${{2:-}}\" = 'cluster status' ]; then\n  '{0}' \"$@\"; status=$?\n  \
         echo \"$status\" >> '{1}'; exit $status\nfi\nexec '{0}' \"$@\"\n",
        larder.display(),
        statuses.display(),
    );
    let program = bin.join("larder");
    std::fs::write(&program, wrapper).expect("a file");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
        .expect("an executable");
}

/// Healthy, degraded, healthy again; before the first and between them anything that waiting goes through.
fn check_statuses(dir: &Path) {
    let noted =
        std::fs::read_to_string(dir.join("statuses")).expect("the page asks for the status");
    let statuses: Vec<i32> = noted
        .lines()
        .map(|line| line.parse().expect("a status"))
        .collect();
    let mut wanted = [0, 4, 0].into_iter().peekable();
    for status in &statuses {
        wanted.next_if_eq(status);
    }
    assert_eq!(
        wanted.next(),
        None,
        "0, then 4, then 0 are not in {statuses:?}"
    );
    assert_eq!(statuses.last(), Some(&0));
}

/// What the nodes gave back is what was written, also after the loss of one.
fn check_documents(output: &str) {
    assert!(output.matches("\"hi\"").count() >= 4, "{output}");
    assert!(
        output.matches("written with two of three nodes").count() >= 2,
        "{output}"
    );
    assert!(
        output.contains("nothing was changed"),
        "the second init is a no-op: {output}"
    );
}

/// Takes down what is left when dropped.
struct Hosts;

impl Drop for Hosts {
    fn drop(&mut self) {
        take_down();
    }
}

fn take_down() {
    for host in HOSTS {
        if let Ok(output) = Command::new("ip")
            .args(["netns", "pids", host])
            .stderr(Stdio::null())
            .output()
        {
            for pid in String::from_utf8_lossy(&output.stdout)
                .lines()
                .filter_map(|pid| pid.trim().parse().ok())
            {
                // Whatever runs inside a namespace of these names was started by this page.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = Command::new("ip")
            .args(["netns", "del", host])
            .stderr(Stdio::null())
            .status();
    }
    let _ = Command::new("ip")
        .args(["link", "del", BRIDGE])
        .stderr(Stdio::null())
        .status();
}
