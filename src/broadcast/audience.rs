//! Who a broadcast is for (pure).
//!
//! Why it exists: the audience is stored as JSON that frontends may write themselves; it is parsed once, and turned
//! into one SQL condition that the estimate and every chunk of planning share.
//!
//! It must never put a value into SQL text: every value is a bound parameter.

use std::str::FromStr;

use carillon_jobs::{BroadcastId, CustomerId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::{Postgres, QueryBuilder};

use super::problem::Problem;
use crate::channel::Channel;

/// The most customers that can be named one by one; more than that is a tag.
pub const CUSTOMERS_LIMIT: usize = 50_000;
const TAG_LIMIT: usize = 100;
const FIELD: &str = "audience";
const SHAPES: &str = "must be one of {\"all\": true}, {\"tag\": \"vip\"}, {\"customers\": [1, 2]}, \
    {\"broadcast\": \"<id>\", \"outcomes\": [\"failed\", \"unknown\"]}";

/// How a delivery of an earlier broadcast ended, where sending again can make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResendOutcome {
    /// The provider refused it.
    Failed,
    /// Nobody knows whether it arrived.
    Unknown,
    /// The deadline passed before it left.
    Expired,
    /// The broadcast was cancelled before it left.
    Cancelled,
}

impl ResendOutcome {
    /// Every outcome that can be sent again.
    pub const ALL: [Self; 4] = [Self::Failed, Self::Unknown, Self::Expired, Self::Cancelled];

    /// The name in SQL (`delivery_state`), JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for ResendOutcome {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == name)
            .ok_or_else(|| "use failed, unknown, expired or cancelled".to_owned())
    }
}

/// The customers of the shop a broadcast is for, before routing says who can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Everybody.
    All,
    /// Everybody with a tag.
    Tag(String),
    /// These customers, ascending, each once.
    Customers(Vec<CustomerId>),
    /// Whom an earlier broadcast did not reach: some delivery ended so, and none arrived on another channel.
    Unreached {
        /// The earlier broadcast, of the same shop.
        broadcast: BroadcastId,
        /// How the deliveries ended, ascending, each once.
        outcomes: Vec<ResendOutcome>,
    },
}

impl Audience {
    /// Reads the stored form.
    ///
    /// # Errors
    /// `audience_invalid` with what is wrong.
    pub fn parse(value: &Value) -> Result<Self, Problem> {
        let invalid = |problem: &str| Problem::new("audience_invalid", FIELD, problem);
        let object = value.as_object().ok_or_else(|| invalid(SHAPES))?;
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        match keys.as_slice() {
            ["all"] if object.get("all") == Some(&Value::Bool(true)) => Ok(Self::All),
            ["tag"] => match object.get("tag").and_then(Value::as_str).map(str::trim) {
                Some("") | None => Err(invalid("has an empty `tag`: name one")),
                Some(tag) if tag.chars().count() > TAG_LIMIT => Err(invalid("has a `tag` of more than 100 characters")),
                Some(tag) => Ok(Self::Tag(tag.to_owned())),
            },
            ["customers"] => Self::customers(object).map_err(|problem| invalid(&problem)),
            ["broadcast", "outcomes"] => Self::unreached(object).map_err(|problem| invalid(&problem)),
            _ => Err(invalid(SHAPES)),
        }
    }

    fn customers(object: &Map<String, Value>) -> Result<Self, String> {
        let list = object.get("customers").and_then(Value::as_array);
        let list = list.ok_or("has `customers` that is no list of customer ids")?;
        if list.len() > CUSTOMERS_LIMIT {
            return Err(format!(
                "names {} customers one by one, at most {CUSTOMERS_LIMIT} can be: tag them and use `tag`",
                list.len()
            ));
        }
        let ids: Option<Vec<i64>> = list.iter().map(Value::as_i64).collect();
        let mut ids = ids.ok_or("has `customers` with something that is no customer id (a whole number)")?;
        ids.sort_unstable();
        ids.dedup();
        Ok(Self::Customers(ids.into_iter().map(CustomerId).collect()))
    }

    fn unreached(object: &Map<String, Value>) -> Result<Self, String> {
        let broadcast = object
            .get("broadcast")
            .and_then(Value::as_str)
            .and_then(|id| id.parse().ok());
        let broadcast = broadcast.ok_or("has `broadcast` that is no broadcast id")?;
        let outcomes = object.get("outcomes").and_then(Value::as_array);
        let outcomes: Option<Vec<ResendOutcome>> = outcomes.and_then(|list| {
            list.iter()
                .map(|one| one.as_str().and_then(|name| name.parse().ok()))
                .collect()
        });
        match outcomes {
            Some(mut outcomes) if !outcomes.is_empty() => {
                outcomes.sort_unstable();
                outcomes.dedup();
                Ok(Self::Unreached { broadcast, outcomes })
            }
            _ => Err("has `outcomes` that is no list of failed, unknown, expired, cancelled".into()),
        }
    }

    /// The stored form.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::All => json!({"all": true}),
            Self::Tag(tag) => json!({"tag": tag}),
            Self::Customers(ids) => json!({"customers": ids}),
            Self::Unreached { broadcast, outcomes } => {
                json!({"broadcast": broadcast, "outcomes": outcomes})
            }
        }
    }

    /// Adds the condition on `customer c` that stands for this audience, beginning with ` and `.
    pub(super) fn push_condition(&self, query: &mut QueryBuilder<Postgres>) {
        match self {
            Self::All => {}
            Self::Tag(tag) => {
                query.push(" and ").push_bind(tag.clone()).push(" = any (c.tags)");
            }
            Self::Customers(ids) => {
                let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
                query.push(" and c.id = any (").push_bind(ids).push(")");
            }
            Self::Unreached { broadcast, outcomes } => {
                let outcomes: Vec<&str> = outcomes.iter().map(|outcome| outcome.as_str()).collect();
                push_result_of(query, " and exists", *broadcast);
                query
                    .push(" and r.state = any (")
                    .push_bind(outcomes)
                    .push("::text[]::delivery_state[]))");
                push_result_of(query, " and not exists", *broadcast);
                query.push(" and r.state in ('accepted', 'delivered', 'read'))");
            }
        }
    }
}

/// Leaves a parenthesis open. Naming every channel lets the key (broadcast, channel, customer) be used in full.
fn push_result_of(query: &mut QueryBuilder<Postgres>, exists: &str, broadcast: BroadcastId) {
    let channels = Channel::ALL.map(Channel::as_str).join(",");
    query.push(exists);
    query
        .push(" (select from delivery_result r where r.broadcast_id = ")
        .push_bind(broadcast.0);
    query.push(format_args!(
        " and r.channel = any ('{{{channels}}}'::channel[]) and r.customer_id = c.id"
    ));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::Audience;

    #[test]
    fn what_is_stored_is_read_back() {
        for stored in [
            json!({"all": true}),
            json!({"tag": "vip"}),
            json!({"customers": [1, 5, 9]}),
            json!({"broadcast": "01939000-0000-7000-8000-000000000001", "outcomes": ["failed", "unknown"]}),
        ] {
            assert_eq!(Audience::parse(&stored).unwrap().to_json(), stored);
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_field_named() {
        for wrong in [
            json!(null),
            json!({}),
            json!({"all": false}),
            json!({"tag": " "}),
            json!({"tag": 5}),
            json!({"customers": ["a"]}),
            json!({"customers": [1], "tag": "vip"}),
            json!({"broadcast": "x", "outcomes": ["failed"]}),
            json!({"broadcast": "01939000-0000-7000-8000-000000000001", "outcomes": []}),
            json!({"broadcast": "01939000-0000-7000-8000-000000000001", "outcomes": ["accepted"]}),
        ] {
            let problem = Audience::parse(&wrong).unwrap_err();
            assert_eq!(
                (problem.id, problem.field.as_str()),
                ("audience_invalid", "audience"),
                "{wrong}"
            );
        }
    }
}
