//! Regular expressions, in time linear in the text.
//!
//! `regex` has no backtracking, hence no look-around and no backreferences: those are refused. `\d`, `\w`, `\s` and `\b` mean ASCII, as
//! they do in MongoDB and, but for `\s`, in JavaScript; by themselves they would mean Unicode here, with tables that cost memory.

use regex::RegexBuilder;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{HirKind, Look};

use super::{Error, Limits};

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    regex: regex::Regex,
    options: Box<str>,
}

impl Pattern {
    /// Compiles `pattern` with MongoDB's options: `i` any case, `m` anchors at lines, `s` a dot is also a line break, `x` blanks and
    /// comments are passed over.
    pub(crate) fn new(pattern: &str, options: &str, limits: &Limits) -> Result<Pattern, Error> {
        if pattern.len() > limits.regex_bytes_max {
            return Err(Error::Limit {
                what: "bytes of a regular expression",
                limit: limits.regex_bytes_max,
            });
        }
        let mut builder = RegexBuilder::new(&ascii_classes(pattern));
        builder
            .size_limit(limits.regex_compiled_bytes_max)
            .dfa_size_limit(limits.regex_compiled_bytes_max);
        for option in options.chars() {
            match option {
                'i' => builder.case_insensitive(true),
                'm' => builder.multi_line(true),
                's' => builder.dot_matches_new_line(true),
                'x' => builder.ignore_whitespace(true),
                other => {
                    return Err(Error::Unsupported(format!(
                        "option {other:?} of $regex: expected i, m, s or x"
                    )));
                }
            };
        }
        match builder.build() {
            Ok(regex) => Ok(Pattern {
                regex,
                options: options.into(),
            }),
            Err(regex::Error::CompiledTooBig(limit)) => Err(Error::Limit {
                what: "bytes of memory of a regular expression",
                limit,
            }),
            // The message has several lines; the last one is the reason.
            Err(error) => {
                let message = error.to_string();
                let reason = message.lines().last().unwrap_or_default();
                let reason = reason.trim_start_matches("error: ");
                Err(Error::Unsupported(format!("$regex: {reason}")))
            }
        }
    }

    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// What every text begins with that the expression matches, and whether the expression matches every text that begins with it. `None`
    /// if it may match anywhere, or in any case.
    pub(crate) fn prefix(&self) -> Option<(String, bool)> {
        let has = |option| self.options.contains(option);
        let whole = ParserBuilder::new()
            .case_insensitive(has('i'))
            .multi_line(has('m'))
            .dot_matches_new_line(has('s'))
            .ignore_whitespace(has('x'))
            .build()
            .parse(self.regex.as_str())
            .ok()?;
        let HirKind::Concat(parts) = whole.kind() else {
            return None;
        };
        match parts.as_slice() {
            [first, second, rest @ ..] => match (first.kind(), second.kind()) {
                (HirKind::Look(Look::Start), HirKind::Literal(literal)) => {
                    let text = std::str::from_utf8(&literal.0).ok()?;
                    Some((text.to_owned(), rest.is_empty()))
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// The pattern with the ASCII forms of Perl's classes.
fn ascii_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    let mut in_class = false;
    while let Some(character) = characters.next() {
        if character != '\\' {
            match character {
                '[' => in_class = true,
                ']' => in_class = false,
                _ => {}
            }
            out.push(character);
            continue;
        }
        // Brackets nest in this syntax, so the classes are right within brackets, too.
        match characters.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str(r"[\t\n\x0B\f\r ]"),
            Some('S') => out.push_str(r"[^\t\n\x0B\f\r ]"),
            Some('b') if in_class => out.push_str(r"\x08"),
            Some('b') => out.push_str(r"(?-u:\b)"),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, options: &str, text: &str) -> bool {
        Pattern::new(pattern, options, &Limits::default())
            .expect(pattern)
            .is_match(text)
    }

    #[test]
    fn options_mean_what_they_mean_in_mongodb() {
        assert!(!is_match("^b", "", "a\nb"));
        assert!(is_match("^b", "m", "a\nb"));
        assert!(!is_match("^B", "m", "a\nb"));
        assert!(is_match("^B", "mi", "a\nb"));
        assert!(!is_match("a.b", "", "a\nb"));
        assert!(is_match("a.b", "s", "a\nb"));
        assert!(is_match("a b # both", "x", "ab"));
    }

    #[test]
    fn classes_are_ascii() {
        assert!(is_match(r"^\d+$", "", "12"));
        assert!(!is_match(r"^\d+$", "", "\u{663}"));
        assert!(is_match(r"^[\w-]+$", "", "a-b_1"));
        assert!(is_match(r"^[^\d]$", "", "x"));
        assert!(!is_match(r"^\w$", "", "ä"));
        assert!(is_match(r"\bto\b", "", "go to it"));
        assert!(is_match(r"^\\d$", "", r"\d"));
        assert!(is_match(r"^a\/b\-c$", "", "a/b-c"));
        assert!(is_match(r"^[\b]$", "", "\u{8}"));
    }

    #[test]
    fn what_takes_backtracking_or_too_much_memory_is_refused() {
        let new =
            |pattern: &str, options| Pattern::new(pattern, options, &Limits::default()).map(|_| ());
        for pattern in [r"(a)\1", "a(?=b)", "(?<!a)b", "(", "[a", "a{2,1}", "\\"] {
            assert!(
                matches!(new(pattern, ""), Err(Error::Unsupported(_))),
                "{pattern}"
            );
        }
        assert!(matches!(new("a", "g"), Err(Error::Unsupported(_))));
        assert!(matches!(
            new("((a{100}){100}){100}", ""),
            Err(Error::Limit { .. })
        ));
        assert!(matches!(
            new(&"a".repeat(1_025), ""),
            Err(Error::Limit { .. })
        ));
    }

    #[test]
    fn the_beginning_of_what_is_matched_is_known() {
        let prefix = |pattern, options| {
            Pattern::new(pattern, options, &Limits::default())
                .expect(pattern)
                .prefix()
        };
        let some = |text: &str, is_exact| Some((text.to_owned(), is_exact));
        assert_eq!(prefix("^ab", ""), some("ab", true));
        assert_eq!(prefix(r"^a\.b\d", ""), some("a.b", false));
        assert_eq!(prefix("^ab*", ""), some("a", false));
        assert_eq!(prefix("^ä.*", ""), some("ä", false));
        assert_eq!(prefix("^ a # b", "x"), some("a", true));
        for (pattern, options) in [
            ("ab", ""),
            ("^ab", "i"),
            ("^ab", "m"),
            ("^a|b", ""),
            ("^", ""),
            ("^[ab]", ""),
            ("^a?", ""),
        ] {
            assert_eq!(prefix(pattern, options), None, "{pattern}");
        }
    }

    #[test]
    fn time_is_linear() {
        // Exponential for anything that backtracks.
        assert!(!is_match(
            "^(a+)+$",
            "",
            &format!("{}b", "a".repeat(100_000))
        ));
    }
}
