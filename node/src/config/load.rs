//! Reads a configuration: defaults, then the file, then the environment; unknown keys are refused with a hint.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::Value;

use super::validate::MEMORY_MIB_FLOOR;
use super::{Config, Rule, memory};

/// Environment variables of this prefix override the file.
pub const ENV_PREFIX: &str = "LARDER_";
/// Between section and key; variables without it (`LARDER_URL`) belong to the client verbs.
pub const ENV_SEPARATOR: &str = "__";
/// A hint farther away than this many edits would not help.
const HINT_EDITS_MAX: usize = 4;

/// Why a configuration cannot be used. The process exits with status 78.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and cause.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`{}", hint(nearest.as_deref()))]
    UnknownKey {
        /// The file or the environment variable.
        origin: String,
        /// The key with its section.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A value of the wrong type.
    #[error("{origin}: {key}: {reason}")]
    Value {
        /// The file or the environment variable.
        origin: String,
        /// The key with its section.
        key: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// Values that do not go together.
    #[error("{}: {rule}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        rule: Rule,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest
        .map(|key| format!(", did you mean `{key}`?"))
        .unwrap_or_default()
}

impl Config {
    /// Reads and validates the configuration in `path`, with overrides from the environment.
    ///
    /// # Errors
    /// [`Error`]; nothing was touched.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut defaults = Self::default();
        defaults.storage.memory_mib = memory::default_mib(MEMORY_MIB_FLOOR);
        let config = Self::parse(defaults, path, &text, &overrides(std::env::vars()))?;
        config.validate().map_err(|rule| Error::Invalid {
            path: path.to_owned(),
            rule,
        })?;
        Ok(config)
    }

    fn parse(
        defaults: Self,
        path: &Path,
        text: &str,
        overrides: &[(String, String)],
    ) -> Result<Self, Error> {
        // First as plain TOML: its messages carry line and column.
        if let Err(error) = toml::from_str::<toml::Table>(text) {
            return Err(Error::Syntax {
                path: path.to_owned(),
                reason: error.to_string(),
            });
        }
        let mut figment = Figment::from(Serialized::defaults(defaults)).merge(Toml::string(text));
        for (key, text) in overrides {
            let Ok(value) = text.parse::<Value>();
            figment = figment.merge(Serialized::default(key, value));
        }
        figment
            .extract()
            .map_err(|error| explain(path, overrides, &error))
    }
}

/// Those variables that are configuration, as (`section.key`, value), sorted.
fn overrides(variables: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut overrides: Vec<_> = variables
        .filter_map(|(name, value)| {
            let key = name.strip_prefix(ENV_PREFIX)?;
            key.contains(ENV_SEPARATOR)
                .then(|| (key.replace(ENV_SEPARATOR, ".").to_lowercase(), value))
        })
        .collect();
    overrides.sort();
    overrides
}

fn explain(path: &Path, overrides: &[(String, String)], error: &figment::Error) -> Error {
    let origin = |key: &str| {
        if overrides.iter().any(|(name, _)| name == key) {
            format!(
                "environment variable {ENV_PREFIX}{}",
                key.replace('.', ENV_SEPARATOR).to_uppercase()
            )
        } else {
            path.display().to_string()
        }
    };
    match &error.kind {
        Kind::UnknownField(field, _) => {
            let parts = match error.path.split_last() {
                Some((last, rest)) if last == field => rest,
                _ => &error.path,
            };
            let key = parts
                .iter()
                .chain([field])
                .cloned()
                .collect::<Vec<_>>()
                .join(".");
            Error::UnknownKey {
                origin: origin(&key),
                nearest: nearest(&key),
                key,
            }
        }
        kind => {
            let key = error.path.join(".");
            Error::Value {
                origin: origin(&key),
                key,
                reason: kind.to_string(),
            }
        }
    }
}

/// Every key with its section, taken from the defaults so that there is no second list.
pub fn known_keys() -> Vec<String> {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut keys = Vec::new();
    for (section, members) in defaults.as_object().into_iter().flatten() {
        keys.push(section.clone());
        keys.extend(
            members
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| format!("{section}.{key}")),
        );
    }
    keys
}

fn nearest(key: &str) -> Option<String> {
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    known_keys()
        .into_iter()
        // A right name in a wrong section is as likely a slip as a misspelt name.
        .map(|known| {
            (
                edits(key, &known).min(edits(&name(key), &name(&known)) + 1),
                edits(key, &known),
                known,
            )
        })
        .filter(|(near, _, _)| *near <= HINT_EDITS_MAX.min(name(key).len()))
        .min()
        .map(|(_, _, known)| known)
}

/// Levenshtein distance in characters.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(Config::default(), Path::new("n1.toml"), text, &[])
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn a_file_overrides_single_keys() {
        let config = parse("[node]\nname = \"n1\"\n[raft]\nheartbeat_ms = 200\n").unwrap();
        assert_eq!(config.node.name, "n1");
        assert_eq!(config.raft.heartbeat_ms, 200);
        assert_eq!(
            config.raft.election_min_ms,
            Config::default().raft.election_min_ms
        );
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_nearest_known_one() {
        let error = parse("[raft]\nheartbeat = 150\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "n1.toml: unknown key `raft.heartbeat`, did you mean `raft.heartbeat_ms`?"
        );
        let error = parse("[rafft]\nheartbeat_ms = 150\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "n1.toml: unknown key `rafft`, did you mean `raft`?"
        );
    }

    #[test]
    fn a_key_in_the_wrong_section_is_refused_with_the_right_one() {
        let error = parse("[node]\ndeadline_ms = 150\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "n1.toml: unknown key `node.deadline_ms`, did you mean `limits.deadline_ms`?"
        );
    }

    #[test]
    fn a_key_like_no_other_gets_no_hint() {
        let error = parse("[node]\nfrobnication = 1\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "n1.toml: unknown key `node.frobnication`"
        );
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let error = parse("[raft]\nheartbeat_ms = \"soon\"\n").unwrap_err();
        assert!(
            matches!(&error, Error::Value { key, .. } if key == "raft.heartbeat_ms"),
            "{error}"
        );
        let error = parse("[listen]\nclient = \"here\"\n").unwrap_err();
        assert!(
            matches!(&error, Error::Value { key, .. } if key == "listen.client"),
            "{error}"
        );
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_repeated() {
        let error = parse("[security]\nroot_password = \"hunter2\"\n").unwrap_err();
        assert!(
            matches!(&error, Error::Value { key, .. } if key == "security.root_password"),
            "{error}"
        );
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("env:NAME") && !text.contains("hunter2"),
            "{text}"
        );
    }

    #[test]
    fn broken_toml_names_the_line() {
        let error = parse("[raft]\nheartbeat_ms = \n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let variables = |name: &str| {
            overrides(
                [(name, "175"), ("LARDER_URL", "http://h"), ("PATH", "/bin")]
                    .map(|(n, v)| (n.to_owned(), v.to_owned()))
                    .into_iter(),
            )
        };
        let file = "[raft]\nheartbeat_ms = 200\n";
        let config = Config::parse(
            Config::default(),
            Path::new("n1.toml"),
            file,
            &variables("LARDER_RAFT__HEARTBEAT_MS"),
        )
        .unwrap();
        assert_eq!(config.raft.heartbeat_ms, 175);
        let error = Config::parse(
            Config::default(),
            Path::new("n1.toml"),
            file,
            &variables("LARDER_RAFT__HEARTBEATS_MS"),
        )
        .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("environment variable LARDER_RAFT__HEARTBEATS_MS: unknown key"),
            "{error}"
        );
    }

    #[test]
    fn every_sample_loads() {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        let mut folders = vec![samples];
        while let Some(folder) = folders.pop() {
            for file in std::fs::read_dir(&folder).unwrap() {
                let path = file.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path
                    .extension()
                    .is_some_and(|extension| extension == "toml")
                {
                    Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
                }
            }
        }
    }

    #[test]
    fn the_reference_shows_every_key_with_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/reference.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        for key in known_keys().iter().filter(|key| key.contains('.')) {
            let (section, name) = key.split_once('.').unwrap();
            assert!(
                table
                    .get(section)
                    .is_some_and(|keys| keys.get(name).is_some()),
                "{key} is missing"
            );
        }
        let mut config = Config::parse(Config::default(), &path, &text, &[]).unwrap();
        config.advertise = Default::default();
        assert_eq!(config, Config::default());
    }
}
