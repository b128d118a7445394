//! Cuts a stream of bytes into JSON records: the elements of an array, or the lines of NDJSON.
//!
//! Nothing is held but the record being read. The cut looks only at strings and brackets; whether a record is good
//! JSON is for the caller to say, so that one bad record does not spoil the following ones.

/// A longer record cannot be a document, and would be held in memory.
pub(crate) const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a stream cannot be cut any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    /// A record longer than [`RECORD_BYTES_MAX`].
    #[error("record {0} is longer than {RECORD_BYTES_MAX} bytes")]
    TooLong(u64),
    /// Something between two elements that is no comma.
    #[error("expected `,` or `]` after record {0} of the array")]
    NoComma(u64),
    /// A comma without an element before it.
    #[error("expected a value as record {0} of the array")]
    NoValue(u64),
    /// Something after the array's end.
    #[error("unexpected text after the end of the array")]
    Trailing,
    /// The stream ended within the array.
    #[error("the array ends within or after record {0}: the file is cut off")]
    CutOff(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but blanks so far.
    Start,
    Line,
    /// After `[` (true) or after a comma (false).
    BeforeElement(bool),
    /// In an element, with its depth and whether in a string and after a backslash.
    Element {
        depth: usize,
        string: bool,
        escaped: bool,
    },
    AfterElement,
    AfterArray,
}

/// Feed it chunks of any size, take records out.
#[derive(Debug)]
pub(crate) struct Splitter {
    state: State,
    record: Vec<u8>,
    count: u64,
    /// Bytes of a UTF-8 byte order mark seen at the very start.
    mark: usize,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Splitter {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Start,
            record: Vec::new(),
            count: 0,
            mark: 0,
        }
    }

    /// Cuts `chunk`; `each` is called with every record that ends in it.
    pub(crate) fn feed(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(Vec<u8>),
    ) -> Result<(), SplitError> {
        for &byte in chunk {
            if self.step(byte)? {
                self.count += 1;
                each(std::mem::take(&mut self.record));
            }
        }
        Ok(())
    }

    /// Says that the stream has ended; a last line needs no line end.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(Vec<u8>)) -> Result<(), SplitError> {
        match self.state {
            State::Start | State::AfterArray => Ok(()),
            State::Line => {
                if !self.record.trim_ascii().is_empty() {
                    self.count += 1;
                    each(std::mem::take(&mut self.record));
                }
                Ok(())
            }
            State::BeforeElement(_) | State::Element { .. } | State::AfterElement => {
                Err(SplitError::CutOff(self.count))
            }
        }
    }

    /// Takes one byte; true if it ends the record.
    fn step(&mut self, byte: u8) -> Result<bool, SplitError> {
        match self.state {
            State::Start => {
                if BYTE_ORDER_MARK.get(self.mark) == Some(&byte) {
                    self.mark += 1;
                } else if byte == b'[' {
                    self.state = State::BeforeElement(true);
                } else if !byte.is_ascii_whitespace() {
                    self.state = State::Line;
                    self.record.push(byte);
                }
                Ok(false)
            }
            State::Line if byte == b'\n' => {
                let blank = self.record.trim_ascii().is_empty();
                if blank {
                    self.record.clear();
                }
                Ok(!blank)
            }
            State::Line => self.push(byte).map(|()| false),
            State::BeforeElement(first) => {
                match byte {
                    b']' if first => self.state = State::AfterArray,
                    b',' | b']' => return Err(SplitError::NoValue(self.count)),
                    byte if byte.is_ascii_whitespace() => {}
                    byte => {
                        self.state = State::Element {
                            depth: 0,
                            string: false,
                            escaped: false,
                        };
                        return self.step_element(byte);
                    }
                }
                Ok(false)
            }
            State::Element { .. } => self.step_element(byte),
            State::AfterElement => {
                match byte {
                    b',' => self.state = State::BeforeElement(false),
                    b']' => self.state = State::AfterArray,
                    byte if byte.is_ascii_whitespace() => {}
                    _ => return Err(SplitError::NoComma(self.count.saturating_sub(1))),
                }
                Ok(false)
            }
            State::AfterArray if byte.is_ascii_whitespace() => Ok(false),
            State::AfterArray => Err(SplitError::Trailing),
        }
    }

    fn step_element(&mut self, byte: u8) -> Result<bool, SplitError> {
        let State::Element {
            mut depth,
            mut string,
            mut escaped,
        } = self.state
        else {
            return Ok(false);
        };
        if string {
            self.push(byte)?;
            string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            self.state = State::Element {
                depth,
                string,
                escaped,
            };
            // A string that is an element of its own ends with its quote; the state below is then the same as after `}`.
            return Ok(!string && depth == 0 && self.end_element());
        }
        match byte {
            // Numbers, true, false and null end only with what follows them.
            b',' | b']' if depth == 0 => {
                self.state = if byte == b',' {
                    State::BeforeElement(false)
                } else {
                    State::AfterArray
                };
                return Ok(true);
            }
            byte if depth == 0 && byte.is_ascii_whitespace() => return Ok(self.end_element()),
            b'"' => string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        self.push(byte)?;
        self.state = State::Element {
            depth,
            string,
            escaped,
        };
        Ok(depth == 0 && matches!(byte, b'}' | b']') && self.end_element())
    }

    fn end_element(&mut self) -> bool {
        self.state = State::AfterElement;
        true
    }

    fn push(&mut self, byte: u8) -> Result<(), SplitError> {
        if self.record.len() == RECORD_BYTES_MAX {
            return Err(SplitError::TooLong(self.count));
        }
        self.record.push(byte);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn split(text: &[u8], chunk: usize) -> Result<Vec<Vec<u8>>, SplitError> {
        let (mut splitter, mut records) = (Splitter::new(), Vec::new());
        for chunk in text.chunks(chunk) {
            splitter.feed(chunk, |record| records.push(record))?;
        }
        splitter.finish(|record| records.push(record))?;
        Ok(records)
    }

    fn texts(text: &str) -> Result<Vec<String>, SplitError> {
        split(text.as_bytes(), 7).map(|records| {
            records
                .into_iter()
                .map(|r| String::from_utf8(r).unwrap())
                .collect()
        })
    }

    #[test]
    fn an_array_and_lines_give_the_same_records() {
        let records = [r#"{"a":"]},\"{["}"#, r#"{"b":[1,{"c":2}]}"#];
        assert_eq!(
            texts(&format!("\u{feff} [ {} , {}\n]\n", records[0], records[1])).unwrap(),
            records
        );
        assert_eq!(
            texts(&format!("{}\n\n{}", records[0], records[1])).unwrap(),
            records
        );
        assert_eq!(
            texts(&format!("{}\r\n{}\r\n", records[0], records[1])).unwrap()[1].trim(),
            records[1]
        );
    }

    #[test]
    fn empty_inputs_have_no_records() {
        for text in ["", " \n", "[]", " [ ] \n"] {
            assert_eq!(texts(text).unwrap(), Vec::<String>::new(), "{text:?}");
        }
    }

    #[test]
    fn a_bad_record_does_not_spoil_the_next() {
        assert_eq!(
            texts("[{a:1}, 7,null,\"x\" ,{\"b\":2}]").unwrap(),
            ["{a:1}", "7", "null", "\"x\"", "{\"b\":2}"]
        );
        assert_eq!(texts("{oops\n{\"b\":2}\n").unwrap(), ["{oops", "{\"b\":2}"]);
    }

    #[test]
    fn broken_arrays_are_named() {
        assert_eq!(texts("[{},{}"), Err(SplitError::CutOff(2)));
        assert_eq!(texts("[{},{\"a\":"), Err(SplitError::CutOff(1)));
        assert_eq!(texts("[{} {}]"), Err(SplitError::NoComma(0)));
        assert_eq!(texts("[{},]"), Err(SplitError::NoValue(1)));
        assert_eq!(texts("[{}] {}"), Err(SplitError::Trailing));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\\PC\\\\\"\\[\\]{},\n]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[\\PC\"\\\\]{0,6}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn parsed(records: &[Vec<u8>]) -> Vec<Value> {
        records
            .iter()
            .map(|record| serde_json::from_slice(record).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn any_values_come_out_of_any_chunks(
            values in prop::collection::vec(json(), 0..6), chunk in 1_usize..40, pretty in any::<bool>(),
        ) {
            let array = if pretty { serde_json::to_vec_pretty(&values) } else { serde_json::to_vec(&values) };
            prop_assert_eq!(&parsed(&split(&array.unwrap(), chunk).unwrap()), &values);
            // As lines only where the first record does not look like an array.
            if !values.first().is_some_and(Value::is_array) {
                let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
                prop_assert_eq!(&parsed(&split(lines.as_bytes(), chunk).unwrap()), &values);
            }
        }
    }
}
