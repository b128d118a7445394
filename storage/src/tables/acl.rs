//! The stored form of an object ACL, shared by documents and change events.
//!
//! The rules of `read`, then those of `write`; each a varint count and so many times a sized reference and one byte, 1 allow or 2 deny.
//! Public ACLs are not stored: the row says that it has none.

use document::acl::{Access, Acl, Rules};

use crate::codec::{Reader, put_bytes, put_varint};
use crate::error::Result;

const ALLOW: u8 = 1;
const DENY: u8 = 2;

/// Appends `acl`.
pub(super) fn put(out: &mut Vec<u8>, acl: &Acl) {
    for rules in [&acl.read, &acl.write] {
        put_varint(out, rules.iter().count() as u64);
        for (reference, access) in rules.iter() {
            put_bytes(out, reference.as_bytes());
            out.push(match access {
                Access::Allow => ALLOW,
                Access::Deny => DENY,
            });
        }
    }
}

/// Reads what [`put`] wrote.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Acl> {
    Ok(Acl {
        read: rules(reader)?,
        write: rules(reader)?,
    })
}

/// Passes over what [`put`] wrote, without checking the rules themselves.
pub(super) fn skip(reader: &mut Reader<'_>) -> Result<()> {
    for _ in 0..2 {
        for _ in 0..reader.varint()? {
            reader.sized()?;
            reader.u8()?;
        }
    }
    Ok(())
}

fn rules(reader: &mut Reader<'_>) -> Result<Rules> {
    let mut rules = Rules::new();
    for _ in 0..reader.varint()? {
        let reference = reader.text()?;
        let access = match reader.u8()? {
            ALLOW => Access::Allow,
            DENY => Access::Deny,
            _ => return Err(reader.corrupt("neither allow nor deny")),
        };
        rules = rules.with(reference, access);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_rules() -> impl Strategy<Value = Rules> {
        let access = prop_oneof![Just(Access::Allow), Just(Access::Deny)];
        proptest::collection::btree_map("\\*|/db/(User|Role)/[a-z0-9]{1,5}", access, 0..4).prop_map(
            |rules| {
                rules.iter().fold(Rules::new(), |all, (reference, access)| {
                    all.with(reference, *access)
                })
            },
        )
    }

    proptest! {
        #[test]
        fn round_trips(read in any_rules(), write in any_rules()) {
            let acl = Acl { read, write };
            let mut out = Vec::new();
            put(&mut out, &acl);
            let mut reader = Reader::new("acl", &out);
            prop_assert_eq!(super::read(&mut reader).expect("reads"), acl);
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn any_bytes_are_read_or_corrupt(bytes: Vec<u8>) {
            if let Err(error) = read(&mut Reader::new("acl", &bytes)) {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
