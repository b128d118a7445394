//! The node's audit log on real files.

use std::fs;

use storage::audit::BEGINNING;

use super::*;

fn record(user: &str) -> Record {
    Record {
        time_us: 7,
        action: "logged_in".into(),
        user: user.into(),
        count: 1,
        ..Record::default()
    }
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    segments(&dir.join(FOLDER))
        .expect("a folder")
        .into_iter()
        .map(|segment| segment.path)
        .collect()
}

/// All texts, read in parts and checked against their hashes.
fn users(log: &Log) -> Vec<String> {
    let (mut after, mut users) = (0, Vec::new());
    loop {
        let part = log.part(after).expect("reads");
        let mut checker = part.before.clone();
        for (hash, text) in &part.records {
            users.push(checker.take(text.as_bytes(), hash).expect("fits").user);
        }
        if checker.next > part.last {
            return users;
        }
        after = checker.next - 1;
    }
}

#[test]
fn it_goes_on_over_a_restart_and_a_cut_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = Log::open(dir.path()).expect("opens");
    assert_eq!(log.head(), (0, BEGINNING));
    log.append(vec![record("a"), record("b")]).expect("written");
    drop(log);
    let path = files_of(dir.path()).pop().expect("a file");
    let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
    file.write_all(b"{\"hash\":\"00").expect("written");
    drop(file);
    assert_eq!(
        check(dir.path(), &Anchors::default())
            .expect("reads")
            .trouble,
        None
    );
    let log = Log::open(dir.path()).expect("opens");
    log.append(vec![record("c")]).expect("written");
    assert_eq!(users(&log), ["a", "b", "c"]);
    let checked = check(dir.path(), &Anchors::default()).expect("reads");
    assert_eq!(
        (checked.records, checked.last, checked.trouble),
        (3, 3, None)
    );
    assert_eq!(log.part(2).expect("reads").records.len(), 1);
    assert_eq!(log.part(9).expect("reads").records.len(), 0);
}

#[test]
fn a_changed_record_is_named_and_the_chain_goes_on_elsewhere() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = Log::open(dir.path()).expect("opens");
    for user in ["a", "b", "c"] {
        log.append(vec![record(user)]).expect("written");
    }
    drop(log);
    let path = files_of(dir.path()).pop().expect("a file");
    let text = fs::read_to_string(&path).expect("reads");
    fs::write(&path, text.replace("\"b\"", "\"x\"")).expect("written");
    let trouble = check(dir.path(), &Anchors::default())
        .expect("reads")
        .trouble
        .expect("trouble");
    assert!(trouble.contains("line 3"), "{trouble}");
    let log = Log::open(dir.path()).expect("opens");
    log.append(vec![record("d")]).expect("written");
    assert_eq!(files_of(dir.path()).len(), 2);
    assert!(
        check(dir.path(), &Anchors::default())
            .expect("reads")
            .trouble
            .is_some()
    );
}

#[test]
fn a_missing_file_shows_and_old_ones_leave() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = Log::open(dir.path()).expect("opens");
    let long = "x".repeat(500);
    let many = |count: usize| (0..count).map(|_| record(&long)).collect::<Vec<_>>();
    while files_of(dir.path()).len() < 4 {
        log.append(many(2_000)).expect("written");
    }
    assert_eq!(
        check(dir.path(), &Anchors::default())
            .expect("reads")
            .trouble,
        None
    );
    let kept = |bytes| Kept {
        time: Duration::from_secs(1),
        bytes,
    };
    // Nothing is old yet, and there is room.
    log.age(8, kept(u64::MAX)).expect("ages");
    assert_eq!(files_of(dir.path()).len(), 4);
    log.age(8, kept(SEGMENT_BYTES * 3)).expect("ages");
    assert_eq!(files_of(dir.path()).len(), 3);
    assert_eq!(
        check(dir.path(), &Anchors::default())
            .expect("reads")
            .trouble,
        None
    );
    let all = users(&log).len() as u64;
    assert!(all < log.head().0);
    let files = files_of(dir.path());
    fs::remove_file(&files[1]).expect("removed");
    let trouble = check(dir.path(), &Anchors::default())
        .expect("reads")
        .trouble
        .expect("trouble");
    assert!(trouble.contains("missing"), "{trouble}");
    log.age(u64::MAX, kept(u64::MAX)).expect("ages");
    assert_eq!(files_of(dir.path()).len(), 1);
    log.append(many(1)).expect("written");
    assert_eq!(
        check(dir.path(), &Anchors::default())
            .expect("reads")
            .trouble,
        None
    );
}

#[test]
fn a_chain_that_was_made_to_fit_is_found_by_what_was_written_down() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = Log::open(dir.path()).expect("opens");
    log.append(vec![record("a"), record("b")]).expect("written");
    let (sequence, hash) = log.head();
    log.append(vec![record("c")]).expect("written");
    drop(log);
    let written_down = |sequence, hash: Hash| {
        let mut anchors = Anchors::default();
        anchors.add(sequence, hash.to_vec());
        check(dir.path(), &anchors).expect("reads").trouble
    };
    assert_eq!(written_down(sequence, hash), None);
    // The file with the names exchanged, and every hash computed again.
    let path = files_of(dir.path()).pop().expect("a file");
    let text = fs::read_to_string(&path).expect("reads");
    let forged = tempfile::tempdir().expect("a folder");
    let log = Log::open(forged.path()).expect("opens");
    for user in ["b", "a", "c"] {
        log.append(vec![record(user)]).expect("written");
    }
    drop(log);
    let other = files_of(forged.path()).pop().expect("a file");
    fs::copy(&other, &path).expect("replaced");
    assert_eq!(
        check(dir.path(), &Anchors::default())
            .expect("reads")
            .trouble,
        None
    );
    let trouble = written_down(sequence, hash).expect("trouble");
    assert!(trouble.contains("record 2 is not the one"), "{trouble}");
    fs::write(&path, text).expect("as it was");
    let trouble = written_down(9, hash).expect("trouble");
    assert!(trouble.contains("ends at record 3"), "{trouble}");
}
