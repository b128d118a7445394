//! What strangers write into rules and ids: nothing of it makes the readers stumble, and what is understood has one meaning.

use document::acl::{Acl, Principal, Rules, may_read};
use document::id::{object_id, parse_object_id};
use document::readers;
use proptest::prelude::*;

/// A text that is often nearly right: small bytes choose among parts of real rules, others stay what they are.
fn text(bytes: &[u8]) -> String {
    const PARTS: [&str; 16] = [
        "{",
        "}",
        "\"read\":",
        "\"write\":",
        "\"/db/User/10\"",
        "\"/db/Role/",
        "\"*\"",
        ":",
        ",",
        "\"allow\"",
        "\"deny\"",
        "null",
        "%2F",
        "\\u0000",
        "[",
        "\"",
    ];
    let parts = bytes
        .iter()
        .map(|byte| match PARTS.get(usize::from(*byte)) {
            Some(part) => (*part).to_owned(),
            None => char::from(*byte).to_string(),
        });
    parts.collect()
}

/// Mostly bytes that stand for parts.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![4 => 0..16u8, 1 => any::<u8>()], 0..64)
}

/// Rules as they should be, with one byte changed.
fn damaged() -> impl Strategy<Value = String> {
    const GOOD: &str =
        r#"{"read":{"/db/User/10":"allow","*":"deny"},"write":{"/db/Role/7":"allow"}}"#;
    (0..GOOD.len(), any::<u8>()).prop_map(|(at, byte)| {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn is_read_or_refused(text: &str) {
    let _ = Rules::from_json(text);
    if let Ok(Some(acl)) = Acl::from_json(text) {
        // What is understood is understood the same way again, and nobody finds less than he may read.
        let again = Acl::from_json(&acl.to_json()).expect("our own form");
        assert_eq!(again.as_ref(), Some(&acl));
        let finds = readers::of_object(Some(&acl)).contains(&readers::ANYBODY);
        assert!(finds || !may_read(Some(&acl), &Principal::anonymous()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn acls_are_read_or_refused(bytes in bytes(), any: String, damaged in damaged()) {
        for text in [text(&bytes), any, damaged] {
            is_read_or_refused(&text);
        }
    }

    #[test]
    fn ids_have_one_reading(rest in prop_oneof![any::<String>(), "[A-Za-z]{1,4}/[a-z%0-9/.]{0,12}"]) {
        let id = format!("/db/{rest}");
        if let Some((bucket, key)) = parse_object_id(&id) {
            let canonical = object_id(bucket, &key);
            prop_assert_eq!(parse_object_id(&canonical), Some((bucket, key)));
        }
    }
}
