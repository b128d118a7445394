//! Random writes against sorting all documents again.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Stored documents by key: the place of each.
type Stored = BTreeMap<u8, u8>;

/// A write: the key, and where the document stands then; `None`: it does not match, or is deleted.
type Write = (u8, Option<u8>);

fn item(key: u8, place: u8, version: u64) -> Item {
    Item {
        place: Bytes::copy_from_slice(&[place, key]),
        key: name(key),
        version,
        body: Bytes::copy_from_slice(&[key]),
    }
}

fn name(key: u8) -> Arc<str> {
    format!("k{key}").into()
}

fn sorted(stored: &Stored) -> Vec<Item> {
    let mut items: Vec<Item> = stored
        .iter()
        .map(|(key, place)| item(*key, *place, 1))
        .collect();
    items.sort_by(|one, two| one.place.cmp(&two.place));
    items
}

/// What a query gives that is asked for so many documents.
fn asked(stored: &Stored, section: Section) -> (Vec<Item>, bool) {
    let mut held = sorted(stored);
    let is_complete = held.len() <= section.held_max();
    held.truncate(section.held_max());
    (held, is_complete)
}

fn shown(stored: &Stored, section: Section) -> Vec<Arc<str>> {
    let all = sorted(stored).into_iter().skip(section.offset);
    let limit = section.limit.unwrap_or(usize::MAX);
    all.take(limit).map(|item| item.key).collect()
}

/// What a client does with steps: the SDK's result stream.
fn carry_out(list: &mut Vec<Arc<str>>, steps: &[Step]) {
    for step in steps {
        let at = list.iter().position(|key| *key == step.key);
        match step.step {
            Move::Out => {
                list.remove(at.expect("what is taken away is there"));
            }
            Move::In(index) => {
                assert_eq!(at, None, "what is put in is not there");
                list.insert(index, step.key.clone());
            }
            Move::Stay(index) => assert_eq!(at, Some(index)),
            Move::To(index) => {
                list.remove(at.expect("what moves is there"));
                list.insert(index, step.key.clone());
            }
        }
    }
}

fn sections() -> impl Strategy<Value = Section> {
    let limit = prop_oneof![Just(None), (1usize..6).prop_map(Some)];
    (0usize..4, limit).prop_map(|(offset, limit)| Section { offset, limit })
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let place = prop_oneof![1 => Just(None), 3 => (0u8..20).prop_map(Some)];
    proptest::collection::vec((0u8..30, place), 0..120)
}

fn write(stored: &mut Stored, (key, place): Write) {
    match place {
        Some(place) => stored.insert(key, place),
        None => stored.remove(&key),
    };
}

proptest! {
    #[test]
    fn steps_lead_to_what_the_query_gives(
        section in sections(),
        before in writes(),
        writes in writes(),
    ) {
        let mut stored = Stored::new();
        before.into_iter().for_each(|one| write(&mut stored, one));
        let (held, is_complete) = asked(&stored, section);
        let mut window = Window::new(section, held, is_complete);
        let mut list = shown(&stored, section);
        for (at, one) in writes.into_iter().enumerate() {
            write(&mut stored, one);
            let (key, place) = one;
            let now = place.map(|place| item(key, place, at as u64 + 2));
            let steps = window.apply(&name(key), now, Operation::Update);
            for step in &steps {
                let is_written = step.key == name(key);
                prop_assert_eq!(step.operation, if is_written { Operation::Update } else { Operation::None });
                prop_assert!(is_written || step.body == [step.key[1..].parse::<u8>().expect("a key")][..]);
            }
            let first_in = steps.iter().position(|step| matches!(step.step, Move::In(_)));
            let last_out = steps.iter().rposition(|step| step.step == Move::Out);
            prop_assert!(first_in.is_none() || last_out < first_in, "{:?}", steps);
            prop_assert!(steps.len() <= 2, "{:?}", steps);
            carry_out(&mut list, &steps);
            prop_assert!(window.len() <= section.held_max());
            if window.is_short() {
                let (held, is_complete) = asked(&stored, section);
                carry_out(&mut list, &window.replace(held, is_complete));
            }
            prop_assert_eq!(&list, &shown(&stored, section));
            let in_window: Vec<_> = window.shown().iter().map(|item| item.key.clone()).collect();
            prop_assert_eq!(&list, &in_window);
        }
    }

    #[test]
    fn any_result_is_reached_from_any_other(section in sections(), before in writes(), after in writes()) {
        let [before, after] = [before, after].map(|writes| {
            let mut stored = Stored::new();
            writes.into_iter().for_each(|one| write(&mut stored, one));
            stored
        });
        let (held, is_complete) = asked(&before, section);
        let mut window = Window::new(section, held, is_complete);
        let mut list = shown(&before, section);
        let (held, is_complete) = asked(&after, section);
        carry_out(&mut list, &window.replace(held, is_complete));
        prop_assert_eq!(list, shown(&after, section));
    }
}

#[test]
fn a_window_asks_anew_only_when_its_slack_is_used_up() {
    let section = Section {
        offset: 1,
        limit: Some(3),
    };
    let stored: Stored = (0..40).map(|key| (key, key)).collect();
    let (held, is_complete) = asked(&stored, section);
    assert!(!is_complete);
    let mut window = Window::new(section, held, is_complete);
    for key in 0..SLACK_MIN as u8 {
        let steps = window.apply(&name(key), None, Operation::Delete);
        assert!(!window.is_short(), "{key}");
        // What is shown first is passed over now, another one comes in at the end.
        let kinds: Vec<Move> = steps.iter().map(|step| step.step).collect();
        assert_eq!(kinds, [Move::Out, Move::In(2)], "{key}");
    }
    window.apply(&name(30), None, Operation::Delete);
    assert!(!window.is_short());
    window.apply(&name(SLACK_MIN as u8), None, Operation::Delete);
    assert!(window.is_short());
}
