//! What a broadcast would do, without doing it.
//!
//! Why it exists: before anything leaves a merchant sees who would get what, who would get nothing and why, and what it
//! costs. The figures come from the very statement planning uses, over the whole audience at once.
//!
//! It must never write anything.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{QueryBuilder, Row};

use super::{
    line_quota::{self, LineEstimate},
    routing::{Mode, SkipReason},
    routing_sql::{Part, Route},
    rules,
    stored::Plannable,
};
use crate::{channel::Channel, db::PgConnection, prices::Prices};

/// One channel of an estimate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChannelEstimate {
    /// The channel.
    pub channel: Channel,
    /// Customers of the audience who can be reached on it, whether or not they would be.
    pub reachable: i64,
    /// Messages it would carry.
    pub messages: i64,
    /// Tokens a message.
    pub tokens_each: i64,
    /// Tokens together.
    pub tokens: i64,
}

/// What a broadcast would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Customers in the audience.
    pub customers: i64,
    /// Every chosen channel, in the broadcast's order.
    pub channels: Vec<ChannelEstimate>,
    /// Customers who would get nothing, by the one reason.
    pub skipped: BTreeMap<String, i64>,
    /// Messages together.
    pub messages: i64,
    /// Tokens together.
    pub tokens: i64,
    /// Tokens the shop can spend now: what it has, without what other broadcasts hold.
    pub available_before: i64,
    /// The same after this broadcast; below zero: so many tokens are missing.
    pub available_after: i64,
    /// What LINE's own account has left and what LINE charges; none where LINE is not used or was never asked.
    pub line: Option<LineEstimate>,
    /// Channels on which it is a quiet time now, by the shop's clock, and until when.
    pub quiet: BTreeMap<Channel, DateTime<Utc>>,
    /// What a merchant should know before sending.
    pub warnings: Vec<String>,
}

/// Estimates a broadcast that passed its checks.
pub(super) async fn estimate(
    conn: &mut PgConnection,
    plannable: &Plannable,
    budget_tokens: Option<i64>,
    prices: &Prices,
) -> Result<Estimate, sqlx::Error> {
    let counts = count(conn, &plannable.route).await?;
    let of = |what: &str, name: &str| counts.get(&(what.to_owned(), name.to_owned())).copied().unwrap_or(0);
    let channels: Vec<ChannelEstimate> = plannable
        .prices
        .iter()
        .map(|(channel, tokens)| {
            let messages = of("messages", channel.as_str());
            let tokens_each = i64::from(*tokens);
            let reachable = of("reachable", channel.as_str());
            ChannelEstimate {
                channel: *channel,
                reachable,
                messages,
                tokens_each,
                tokens: messages * tokens_each,
            }
        })
        .collect();
    let skipped = SkipReason::ALL.map(|reason| (reason.as_str().to_owned(), of("skipped", reason.as_str())));
    let available: Option<i64> = sqlx::query_scalar(
        "select allowance - held_allowance + extra - held_extra from token_account where shop_id = $1",
    )
    .bind(plannable.route.shop.0)
    .fetch_optional(&mut *conn)
    .await?;
    let quiet = quiet_now(conn, &plannable.route).await?;
    let line = line_quota::estimate(conn, &plannable.route, of("messages", "line"), prices, plannable.day).await?;
    let tokens = channels.iter().map(|channel| channel.tokens).sum();
    let available_before = available.unwrap_or(0);
    let mut estimate = Estimate {
        customers: of("customers", ""),
        messages: channels.iter().map(|channel| channel.messages).sum(),
        channels,
        skipped: skipped.into_iter().filter(|(_, n)| *n > 0).collect(),
        tokens,
        available_before,
        available_after: available_before - tokens,
        line,
        quiet,
        warnings: Vec::new(),
    };
    estimate.warnings = warnings(&estimate, plannable, budget_tokens);
    Ok(estimate)
}

/// Where messages would wait if the broadcast were sent now. Tests never do.
async fn quiet_now(conn: &mut PgConnection, route: &Route) -> Result<BTreeMap<Channel, DateTime<Utc>>, sqlx::Error> {
    if route.testers {
        return Ok(BTreeMap::new());
    }
    let Some(rules) = rules::read(conn, route.shop).await? else {
        return Ok(BTreeMap::new());
    };
    let zone = rules.time_zone.parse().unwrap_or(chrono_tz::Tz::UTC);
    let used = |channel| route.legs.iter().any(|leg| leg.channel == channel);
    let quiet = rules.quiet.iter().filter(|one| used(one.channel));
    Ok(quiet
        .filter_map(|one| Some((one.channel, one.hours.until(rules.now, zone)?)))
        .collect())
}

/// One statement, one snapshot: (what, name) → how many.
async fn count(conn: &mut PgConnection, route: &Route) -> Result<BTreeMap<(String, String), i64>, sqlx::Error> {
    let mut query = QueryBuilder::new("");
    route.push_routed(&mut query, Part::Whole);
    query.push(" select 'customers', '', n from (select count(*) as n from base) t");
    query.push(
        " union all select 'messages', channel::text, count(*) from picks group by channel
          union all select 'skipped', reason, count(*) from skips group by reason
          union all select 'reachable', x.name, x.n from (select 0",
    );
    for place in 0..route.legs.len() {
        query.push(format_args!(", count(*) filter (where open_{place}) as n_{place}"));
    }
    query.push(" from base) r cross join lateral (values (null::text, null::bigint)");
    for (place, leg) in route.legs.iter().enumerate() {
        query.push(format_args!(", ('{}', r.n_{place})", leg.channel));
    }
    query.push(") as x (name, n) where x.name is not null");
    let rows = query.build().persistent(false).fetch_all(conn).await?;
    rows.iter()
        .map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?)))
        .collect()
}

fn warnings(estimate: &Estimate, plannable: &Plannable, budget_tokens: Option<i64>) -> Vec<String> {
    let mut warnings = Vec::new();
    if estimate.available_after < 0 {
        warnings.push(format!(
            "{} tokens are missing: nothing would be sent",
            -estimate.available_after
        ));
    }
    if let Some(budget) = budget_tokens.filter(|budget| estimate.tokens > *budget) {
        warnings.push(format!(
            "it costs {} tokens, the budget is {budget}: nothing would be sent",
            estimate.tokens
        ));
    }
    if let Some(line) = estimate.line.as_ref().filter(|line| line.missing > 0) {
        warnings.push(format!(
            "LINE lets this account send {} more messages this month, {} are missing: nothing would be sent",
            line.left.unwrap_or(0),
            line.missing
        ));
    }
    if let Some(line) = estimate.line.as_ref().filter(|line| line.quota.failing_since.is_some()) {
        warnings.push(match line.quota.read_at {
            Some(at) => format!(
                "LINE does not say now what is left of its quota; it last did at {}",
                at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
            ),
            None => {
                "LINE does not say what is left of its quota, and never has: the broadcast would wait for it".to_owned()
            }
        });
    }
    if plannable.route.mode == Mode::PrioritySingle {
        let pairs = plannable.prices.iter().zip(plannable.prices.iter().skip(1));
        for ((first, dear), (second, cheap)) in pairs.filter(|((_, dear), (_, cheap))| dear > cheap) {
            warnings.push(format!(
                "priority is not cheapest first: {first} ({dear} tokens) stands before {second} ({cheap})"
            ));
        }
    }
    for (channel, until) in &estimate.quiet {
        warnings.push(format!(
            "quiet hours on {channel}: sent now, its messages wait until {}, or expire at the broadcast's deadline",
            until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        ));
    }
    for channel in &plannable.disconnected {
        warnings.push(format!(
            "the sender of {channel} is disconnected: nobody is reachable there"
        ));
    }
    if estimate.customers > 0 && estimate.messages == 0 {
        warnings.push("nobody of the audience can be reached on the chosen channels".to_owned());
    }
    warnings
}
