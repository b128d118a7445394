//! Secrets in a configuration: never the value, only where it is.
//!
//! `file:PATH` is a file, `env:NAME` a variable of the process's environment. Anything else is refused without being
//! repeated, so that a value which was written by mistake reaches no log; printing one shows the reference.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

const FILE: &str = "file:";
const ENV: &str = "env:";

/// Where a secret is. Holds no value, so it may be printed and compared.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Secret {
    /// Not set.
    #[default]
    Absent,
    /// The content of a file.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
}

/// Why a secret cannot be read. Names where it should be, never what is there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its key is not set.
    #[error("it is not set")]
    Absent,
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The variable does not exist, or is not text.
    #[error("the environment variable {0} is not set")]
    Env(String),
    /// Nothing is there.
    #[error("{0} is empty")]
    Empty(Secret),
}

impl Secret {
    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        *self != Self::Absent
    }

    /// The whole content, as it is now.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(&self) -> Result<String, SecretError> {
        match self {
            Self::Absent => Err(SecretError::Absent),
            Self::File(path) => std::fs::read_to_string(path).map_err(|source| SecretError::File {
                path: path.clone(),
                source,
            }),
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env(name.clone())),
        }
    }

    /// The first line, without its end: for passwords.
    ///
    /// # Errors
    /// [`SecretError`]; an empty line too.
    pub fn read_line(&self) -> Result<String, SecretError> {
        match self.read()?.lines().next() {
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            Some(_) | None => Err(SecretError::Empty(self.clone())),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => Ok(()),
            Self::File(path) => write!(f, "{FILE}{}", path.display()),
            Self::Env(name) => write!(f, "{ENV}{name}"),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Types other than text are refused by the same words: their value could be the secret too.
        let refused = || {
            D::Error::custom(
                "a secret is not written here (its value is not repeated): give file:PATH or env:NAME",
            )
        };
        let text = String::deserialize(deserializer).map_err(|_| refused())?;
        if text.is_empty() {
            return Ok(Self::Absent);
        }
        match (text.strip_prefix(FILE), text.strip_prefix(ENV)) {
            (Some(path), _) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Secret, serde_json::Error> {
        serde_json::from_value(serde_json::Value::from(text))
    }

    #[test]
    fn a_reference_says_where_and_reads_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "from a file\nmore\n").unwrap();
        let secret = parse(&format!("file:{}", path.display())).unwrap();
        assert_eq!(secret.read_line().unwrap(), "from a file");
        assert_eq!(
            format!("{secret:?}"),
            format!("Secret(file:{})", path.display())
        );
        let variable = parse("env:PATH").unwrap();
        assert_eq!(
            variable.read_line().unwrap(),
            std::env::var("PATH").unwrap()
        );
        assert_eq!(serde_json::to_value(&variable).unwrap(), "env:PATH");
        assert!(!parse("").unwrap().is_set());
    }

    #[test]
    fn a_literal_is_refused_and_not_repeated() {
        for literal in ["hunter2", "file:", "env:", "-----BEGIN PRIVATE KEY-----"] {
            let error = parse(literal).unwrap_err().to_string();
            assert!(error.contains("file:PATH or env:NAME"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let number = serde_json::from_value::<Secret>(serde_json::json!(4711)).unwrap_err();
        assert!(!number.to_string().contains("4711"), "{number}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let missing = parse("file:/no/such/file").unwrap().read().unwrap_err();
        assert!(missing.to_string().contains("/no/such/file"), "{missing}");
        let unset = parse("env:LARDER_NO_SUCH_VARIABLE")
            .unwrap()
            .read_line()
            .unwrap_err();
        assert!(
            unset.to_string().contains("LARDER_NO_SUCH_VARIABLE"),
            "{unset}"
        );
    }
}
