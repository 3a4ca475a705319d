//! The default document and what is laid over it: keys, types and origins, before any section gives them a meaning.
//!
//! A value that does not fit is reported and left at its default, so that the checks behind it still run and report too.

use std::{collections::BTreeMap, fmt, path::Path};

use toml::{Table, Value};

use super::{
    ConfigErrors, Problem, Report, Section, Sources, show,
    text::{distance, example_of, fits, flatten, insert, kind_of, line_at, lines_of, list_of},
};

const ENV_PREFIX: &str = "CARILLON__";

/// Variables that platforms set, and the key each one stands for.
const PLATFORM: [(&str, &str); 6] = [
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
    ("PORT", "web.port"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel.endpoint_url"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "otel.headers"),
    ("OTEL_SERVICE_NAME", "otel.service_name"),
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The embedded document.
    Default,
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: String,
        /// The line, from 1; 0 when there is none to name.
        line: usize,
    },
    /// A variable of the environment.
    Env(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => f.write_str(path),
            Self::File { path, line } => write!(f, "{path} line {line}"),
            Self::Env(name) => write!(f, "environment {name}"),
        }
    }
}

/// One key that ends in a value (a list counts as a value).
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) default: Value,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// All keys, by their dotted path.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) leaves: BTreeMap<String, Leaf>,
    order: Vec<String>,
    problems: Vec<Problem>,
}

impl Document {
    pub(super) fn new(default: &str) -> Result<Self, ConfigErrors> {
        let table: Table = default.parse().map_err(|error: toml::de::Error| {
            let origin = Origin::Default;
            let fix = "this is a fault in the program: report it".to_owned();
            ConfigErrors(vec![Problem {
                key: "config/default.toml".into(),
                origin,
                what: error.message().to_owned(),
                fix,
            }])
        })?;
        let mut leaves = BTreeMap::new();
        for (path, value) in flatten(&table) {
            leaves.insert(
                path,
                Leaf {
                    default: value.clone(),
                    value,
                    origin: Origin::Default,
                },
            );
        }
        let lines = lines_of(default);
        let mut order: Vec<String> = leaves.keys().cloned().collect();
        order.sort_by_key(|path| lines.get(path).copied().unwrap_or(usize::MAX));
        Ok(Self {
            leaves,
            order,
            problems: Vec::new(),
        })
    }

    /// Lays file, environment and platform variables over the defaults, in this order.
    pub(super) fn overlay(&mut self, sources: &Sources) {
        if let Some(path) = &sources.file {
            self.overlay_file(path);
        }
        for (name, text) in &sources.env {
            if let Some(rest) = name.strip_prefix(ENV_PREFIX) {
                let path = rest.to_ascii_lowercase().replace("__", ".");
                self.set_text(&path, text, Origin::Env(name.clone()));
            }
        }
        for (name, path) in PLATFORM {
            if let Some(text) = sources.env.get(name).filter(|text| !text.is_empty()) {
                self.set_text(path, text, Origin::Env(name.to_owned()));
            }
        }
    }

    fn overlay_file(&mut self, path: &Path) {
        let shown = path.display().to_string();
        let origin = |line| Origin::File {
            path: shown.clone(),
            line,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let fix = "name a file that can be read, or unset CARILLON_CONFIG".to_owned();
                let key = "CARILLON_CONFIG".to_owned();
                self.problems.push(Problem {
                    key,
                    origin: origin(0),
                    what: format!("cannot be read: {error}"),
                    fix,
                });
                return;
            }
        };
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                // The parser's full message quotes the line, which may hold a secret; its short one does not.
                let error: toml::de::Error = error;
                let line = error.span().map_or(0, |span| line_at(&text, span.start));
                let fix = "write it as TOML, like config/default.toml".to_owned();
                let key = "CARILLON_CONFIG".to_owned();
                self.problems.push(Problem {
                    key,
                    origin: origin(line),
                    what: error.message().to_owned(),
                    fix,
                });
                return;
            }
        };
        let lines = lines_of(&text);
        for (path, value) in flatten(&table) {
            let origin = origin(lines.get(&path).copied().unwrap_or(0));
            self.set_value(&path, value, origin);
        }
    }

    fn set_value(&mut self, path: &str, value: Value, origin: Origin) {
        let Some(leaf) = self.leaves.get_mut(path) else {
            return self.unknown(path, origin);
        };
        let value = match (&leaf.default, value) {
            // A whole number is a fine fraction.
            #[allow(clippy::cast_precision_loss)]
            (Value::Float(_), Value::Integer(number)) => Value::Float(number as f64),
            (_, value) => value,
        };
        if fits(&leaf.default, &value) {
            leaf.value = value;
            leaf.origin = origin;
        } else {
            let what = format!("is {}, not {}", kind_of(&value), kind_of(&leaf.default));
            let fix = format!("write {}", example_of(&leaf.default));
            self.problems.push(Problem {
                key: path.to_owned(),
                origin,
                what,
                fix,
            });
        }
    }

    /// A text from the environment takes the type that its key has.
    fn set_text(&mut self, path: &str, text: &str, origin: Origin) {
        let Some(leaf) = self.leaves.get_mut(path) else {
            return self.unknown(path, origin);
        };
        let text = text.trim();
        let value = match &leaf.default {
            Value::String(_) => Some(Value::String(text.to_owned())),
            Value::Integer(_) => text.parse().ok().map(Value::Integer),
            Value::Float(_) => text
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite())
                .map(Value::Float),
            Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
            Value::Array(_) => list_of(text),
            Value::Datetime(_) => text.parse().ok().map(Value::Datetime),
            Value::Table(_) => None,
        };
        if let Some(value) = value {
            return self.set_value(path, value, origin);
        }
        let shown = if show::is_secret(path) {
            "the value".to_owned()
        } else {
            format!("\"{text}\"")
        };
        let what = format!("{shown} is not {}", kind_of(&leaf.default));
        let fix = format!("write {}", example_of(&leaf.default));
        self.problems.push(Problem {
            key: path.to_owned(),
            origin,
            what,
            fix,
        });
    }

    fn unknown(&mut self, path: &str, origin: Origin) {
        let below = format!("{path}.");
        let fix = if self.leaves.keys().any(|known| known.starts_with(&below)) {
            format!("it is a section: put its keys under [{path}]")
        } else {
            match self.order.iter().min_by_key(|known| distance(known, path)) {
                Some(near) if distance(near, path) <= 1 + near.len() / 4 => {
                    format!("did you mean {near}?")
                }
                _ => "remove it, or look up its name in config/default.toml".to_owned(),
            }
        };
        self.problems.push(Problem {
            key: path.to_owned(),
            origin,
            what: "is not a key of Carillon".to_owned(),
            fix,
        });
    }

    /// Reads one section and lets it check itself. `None` when it could not be read; the reason is then a problem.
    pub(super) fn section<S: Section>(&mut self, name: &str) -> Option<S> {
        let changed: Vec<String> = self
            .leaves_of(name)
            .filter(|(_, leaf)| leaf.value != leaf.default)
            .map(|(path, _)| path.clone())
            .collect();
        // Serde stops at the first mistake. Each changed key is tried alone, so that every one of them is named.
        for path in changed {
            let alone = |(other, leaf): (&String, &Leaf)| {
                if *other == path {
                    leaf.value.clone()
                } else {
                    leaf.default.clone()
                }
            };
            if let Err(error) = self.read::<S>(name, alone) {
                let secret = show::is_secret(&path);
                let what = if secret {
                    "does not fit".to_owned()
                } else {
                    error.message().trim().replace('\n', " ")
                };
                if let Some(leaf) = self.leaves.get_mut(&path) {
                    leaf.value = leaf.default.clone();
                    let fix = "see its comment in config/default.toml".to_owned();
                    self.problems.push(Problem {
                        key: path.clone(),
                        origin: leaf.origin.clone(),
                        what,
                        fix,
                    });
                }
            }
        }
        match self.read::<S>(name, |(_, leaf)| leaf.value.clone()) {
            Ok(section) => {
                let mut problems = Vec::new();
                let origin_of = |key: &str| self.leaves.get(key).map_or(Origin::Default, |leaf| leaf.origin.clone());
                section.check(&mut Report {
                    section: name,
                    origin_of: &origin_of,
                    problems: &mut problems,
                });
                self.problems.extend(problems);
                Some(section)
            }
            Err(error) => {
                let what = error.message().trim().replace('\n', " ");
                let fix = "this is a fault in the program's default document: report it".to_owned();
                self.problems.push(Problem {
                    key: name.to_owned(),
                    origin: Origin::Default,
                    what,
                    fix,
                });
                None
            }
        }
    }

    fn leaves_of(&self, section: &str) -> impl Iterator<Item = (&String, &Leaf)> {
        let below = format!("{section}.");
        self.leaves.iter().filter(move |(path, _)| path.starts_with(&below))
    }

    fn read<S: Section>(&self, name: &str, choose: impl Fn((&String, &Leaf)) -> Value) -> Result<S, toml::de::Error> {
        let mut root = Table::new();
        for entry in self.leaves_of(name) {
            let path = entry.0.clone();
            insert(&mut root, &path, choose(entry));
        }
        let section = root.remove(name).unwrap_or_else(|| Value::Table(Table::new()));
        section.try_into()
    }

    /// Every key, in the order of the default document, fit to be shown.
    pub(super) fn effective(&self) -> Vec<show::Effective> {
        let entry = |path: &String| {
            self.leaves
                .get(path)
                .map(|leaf| show::Effective::new(path, &leaf.value, leaf.origin.clone()))
        };
        self.order.iter().filter_map(entry).collect()
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}
