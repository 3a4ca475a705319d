//! The list of schedules, read from `config/schedule.toml` and checked whole before any process starts with it.
//!
//! Why it is data: what is due when is a person's decision, with the file's history as its record. It must never hold a
//! schedule that could not ring: the kind exists, and the payload is one that kind takes.

use std::path::Path;

use carillon_jobs::{Envelope, Kind};
use chrono::{NaiveTime, TimeDelta, Weekday};
use chrono_tz::Tz;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    calendar::{Every, Rhythm},
    catch_up::CatchUp,
};

const EMBEDDED: &str = include_str!("../../config/schedule.toml");
const MOST_NAME_CHARS: usize = 60;
const DEFAULT_GRACE_MINS: i64 = 60;
const LONGEST_GRACE_MINS: i64 = 60 * 24 * 31;

/// What `args` say where the period's name belongs.
const PERIOD: &str = "{period}";

/// Why a list of schedules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleListError {
    /// The file cannot be read.
    #[error("cannot read the schedules at {path}: {source}")]
    Unreadable {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the expected TOML.
    #[error("the schedules are not as expected: {0}")]
    Malformed(#[from] Box<toml::de::Error>),
    /// Two schedules have one name.
    #[error("two schedules are called {0}: a period's row belongs to one of them")]
    Twice(String),
    /// A key of a schedule makes no sense.
    #[error("schedule {schedule}: {key} {what}")]
    Wrong {
        /// Whose.
        schedule: String,
        /// Which.
        key: &'static str,
        /// Why, and what would.
        what: String,
    },
}

/// One schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// When its periods are due.
    pub rhythm: Rhythm,
    /// The kind of job a period rings.
    pub kind: Kind,
    args: Map<String, Value>,
    /// What becomes of periods that were missed.
    pub catch_up: CatchUp,
    /// How late a period may be rung where missed ones are skipped.
    pub grace: TimeDelta,
}

impl Schedule {
    /// The payload of one period's job.
    #[must_use]
    pub fn args(&self, period: &str) -> Value {
        with_period(&Value::Object(self.args.clone()), period)
    }

    /// Whether a period makes those before it that nobody has rung for pointless.
    #[must_use]
    pub fn rings_latest_only(&self) -> bool {
        self.catch_up == CatchUp::Latest
    }
}

/// The payload with the period's name in its texts.
fn with_period(value: &Value, period: &str) -> Value {
    match value {
        Value::String(text) => text.replace(PERIOD, period).into(),
        Value::Array(list) => list.iter().map(|value| with_period(value, period)).collect(),
        Value::Object(fields) => {
            let filled = fields
                .iter()
                .map(|(key, value)| (key.clone(), with_period(value, period)));
            Value::Object(filled.collect())
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other.clone(),
    }
}

/// The job of one period, as a producer would push it: its id names the period, and while it waits no second one does.
pub(super) fn bell(kind: Kind, id: &str, args: &Value) -> Result<Envelope, carillon_jobs::ContractError> {
    let text = json!({"id": id, "unique": id, "args": args}).to_string();
    Envelope::parse(kind, text.as_bytes())
}

/// Every schedule, checked. In configuration: the path of a file, or empty for the list that is built in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct ScheduleList {
    schedules: Vec<Schedule>,
    fingerprint: String,
}

impl ScheduleList {
    /// The list that is built in.
    ///
    /// # Errors
    /// Never in a released build: a test reads it.
    pub fn embedded() -> Result<Self, ScheduleListError> {
        Self::parse(EMBEDDED)
    }

    /// Reads a list from a file.
    ///
    /// # Errors
    /// When it cannot be read or holds anything but schedules that can ring.
    pub fn read(path: &Path) -> Result<Self, ScheduleListError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScheduleListError::Unreadable {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads a list from TOML.
    ///
    /// # Errors
    /// When it holds anything but schedules that can ring.
    pub fn parse(text: &str) -> Result<Self, ScheduleListError> {
        let entries = toml::from_str::<Document>(text).map_err(Box::new)?.schedule;
        let schedules = entries.into_iter().map(Entry::check).collect::<Result<Vec<_>, _>>()?;
        for (place, schedule) in schedules.iter().enumerate() {
            if schedules.iter().take(place).any(|other| other.name == schedule.name) {
                return Err(ScheduleListError::Twice(schedule.name.clone()));
            }
        }
        let digest = digest(&SHA256, text.as_bytes());
        let head = digest
            .as_ref()
            .first_chunk()
            .map_or(0, |bytes: &[u8; 8]| u64::from_be_bytes(*bytes));
        let fingerprint = format!("{head:016x}");
        Ok(Self { schedules, fingerprint })
    }

    /// The schedules, in the order of the file.
    #[must_use]
    pub fn all(&self) -> &[Schedule] {
        &self.schedules
    }

    /// The schedule of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Schedule> {
        self.schedules.iter().find(|schedule| schedule.name == name)
    }

    /// The same for the same text, else another.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl TryFrom<String> for ScheduleList {
    type Error = ScheduleListError;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        if path.is_empty() {
            Self::embedded()
        } else {
            Self::read(Path::new(&path))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    schedule: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Month,
    Week,
    Day,
    Hour,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    every: Word,
    day: Option<u8>,
    weekday: Option<String>,
    at: Option<String>,
    minute: Option<u32>,
    zone: String,
    kind: String,
    #[serde(default)]
    args: Map<String, Value>,
    catch_up: CatchUp,
    grace_mins: Option<i64>,
}

impl Entry {
    fn check(self) -> Result<Schedule, ScheduleListError> {
        let name = self.checked_name()?;
        let rhythm = self.rhythm()?;
        let kind: Kind = self
            .kind
            .parse()
            .map_err(|error: carillon_jobs::ContractError| self.wrong("kind", error.to_string()))?;
        let grace = self.grace()?;
        let schedule = Schedule {
            name,
            rhythm,
            kind,
            grace,
            catch_up: self.catch_up,
            args: self.args.clone(),
        };
        // Any period will do: their names differ in nothing that a payload could mind.
        bell(kind, "check", &schedule.args(rhythm.every.example()))
            .map_err(|error| self.wrong("args", format!("are not what {kind} takes: {}", in_words(&error))))?;
        Ok(schedule)
    }

    fn wrong(&self, key: &'static str, what: impl Into<String>) -> ScheduleListError {
        let schedule = self.name.chars().take(MOST_NAME_CHARS).collect();
        let what = what.into();
        ScheduleListError::Wrong { schedule, key, what }
    }

    fn checked_name(&self) -> Result<String, ScheduleListError> {
        let word = |word: &str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if self.name.len() > MOST_NAME_CHARS || !self.name.split('-').all(word) {
            let what =
                format!("must be at most {MOST_NAME_CHARS} small letters, digits and single hyphens: monthly-refill");
            return Err(self.wrong("name", what));
        }
        Ok(self.name.clone())
    }

    fn rhythm(&self) -> Result<Rhythm, ScheduleListError> {
        self.only_keys_that_count()?;
        let every = match self.every {
            Word::Month => Every::Month {
                day: self.day.unwrap_or(1),
            },
            Word::Week => Every::Week {
                weekday: self.checked_weekday()?,
            },
            Word::Day => Every::Day,
            Word::Hour => Every::Hour,
        };
        if self.day.is_some_and(|day| !(1..=31).contains(&day)) {
            return Err(self.wrong("day", "must be 1 to 31"));
        }
        let at = match (self.every, self.minute) {
            (Word::Hour, minute) => NaiveTime::from_hms_opt(0, minute.unwrap_or(0), 0)
                .ok_or_else(|| self.wrong("minute", "must be 0 to 59"))?,
            _ => self.time_of_day()?,
        };
        let zone: Tz = self
            .zone
            .parse()
            .map_err(|_| self.wrong("zone", "is no time zone: write it as Asia/Taipei or UTC"))?;
        Ok(Rhythm { every, at, zone })
    }

    /// A key that does nothing here would be believed to do something.
    fn only_keys_that_count(&self) -> Result<(), ScheduleListError> {
        let set = [
            (
                "day",
                self.day.is_some(),
                self.every == Word::Month,
                "only every = \"month\" has one",
            ),
            (
                "weekday",
                self.weekday.is_some(),
                self.every == Word::Week,
                "only every = \"week\" has one",
            ),
            (
                "at",
                self.at.is_some(),
                self.every != Word::Hour,
                "an hour has a minute instead",
            ),
            (
                "minute",
                self.minute.is_some(),
                self.every == Word::Hour,
                "only every = \"hour\" has one; write at = \"HH:MM\"",
            ),
            (
                "grace_mins",
                self.grace_mins.is_some(),
                self.catch_up == CatchUp::Skip,
                "only counts with catch_up = \"skip\"",
            ),
        ];
        match set.into_iter().find(|(_, given, counts, _)| *given && !counts) {
            Some((key, _, _, why)) => Err(self.wrong(key, format!("does not belong here: {why}"))),
            None => Ok(()),
        }
    }

    fn checked_weekday(&self) -> Result<Weekday, ScheduleListError> {
        let days = [
            "monday",
            "tuesday",
            "wednesday",
            "thursday",
            "friday",
            "saturday",
            "sunday",
        ];
        let name = self.weekday.as_deref().unwrap_or("monday");
        days.iter()
            .position(|day| *day == name)
            .and_then(|place| Weekday::try_from(u8::try_from(place).ok()?).ok())
            .ok_or_else(|| self.wrong("weekday", format!("must be one of {}", days.join(", "))))
    }

    fn time_of_day(&self) -> Result<NaiveTime, ScheduleListError> {
        let text = self.at.as_deref().unwrap_or("00:00");
        let time = NaiveTime::parse_from_str(text, "%H:%M").ok();
        // One way to write a time: 9:05 could be meant as anything.
        time.filter(|time| time.format("%H:%M").to_string() == text)
            .ok_or_else(|| self.wrong("at", "must be a time of day from 00:00 to 23:59, as in 03:30"))
    }

    fn grace(&self) -> Result<TimeDelta, ScheduleListError> {
        let mins = self.grace_mins.unwrap_or(DEFAULT_GRACE_MINS);
        if !(1..=LONGEST_GRACE_MINS).contains(&mins) {
            return Err(self.wrong("grace_mins", format!("must be 1 to {LONGEST_GRACE_MINS}")));
        }
        Ok(TimeDelta::minutes(mins))
    }
}

/// The field is named; the place would be one in a text that nobody wrote.
fn in_words(error: &carillon_jobs::ContractError) -> String {
    let said = error.to_string();
    said.split(" at line ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
