//! Making broadcasts: new ones, resends, and tests of one message.
//!
//! Why it exists: the door. Everything that can be known to be wrong is refused here at once, by field, before a row is
//! written; the same draft can be estimated without being stored.
//!
//! It must never start anything: a new broadcast is a draft until it is sent (`control`).

use carillon_jobs::{BroadcastId, SenderId, ShopId};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use sqlx::types::Uuid;

use super::{
    audience::{Audience, ResendOutcome},
    compliance,
    config::BroadcastConfig,
    estimate::{self, Estimate},
    problem::{Problem, Problems},
    routing::Mode,
    rules,
    schedule::local_time,
    senders::choose_senders,
    stored::{self, Plannable, Stored},
};
use crate::{
    channel::{Channel, phone},
    db::{self, PgConnection, PgPool},
};

/// A broadcast somebody wants to make.
#[derive(Debug, Clone)]
pub struct NewBroadcast {
    /// Whose.
    pub shop: ShopId,
    /// What the merchant calls it.
    pub name: String,
    /// How the channels work together.
    pub mode: Mode,
    /// The channels in order of priority, each from a sender or, by default, from the primary one.
    pub channels: Vec<(Channel, Option<SenderId>)>,
    /// The message, as `channel::Content` reads it.
    pub content: Value,
    /// For whom.
    pub audience: Audience,
    /// The most it may cost.
    pub budget_tokens: Option<u32>,
    /// When, on the shop's clock, such as `2026-11-30 10:00`; none: when it is sent.
    pub at: Option<String>,
    /// How long after its start what has not left expires; none: 24.
    pub deadline_hours: Option<u32>,
}

/// Why a broadcast was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// It is wrong; nothing was written.
    #[error("{0}")]
    Refused(#[from] Problems),
    /// Postgres failed or is away.
    #[error("the database could not be used: {0}")]
    Database(#[from] sqlx::Error),
}

impl From<Problem> for CreateError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem.into())
    }
}

pub(super) struct Checked {
    plannable: Plannable,
    pub(super) stored: Stored,
    scheduled_at: Option<DateTime<Utc>>,
    deadline_hours: i32,
}

/// Stores a draft.
///
/// # Errors
/// Everything wrong with it at once.
pub async fn create(pool: &PgPool, config: &BroadcastConfig, new: &NewBroadcast) -> Result<BroadcastId, CreateError> {
    let mut tx = db::begin(pool).await?;
    let checked = check(&mut tx, config, new).await?;
    if !any_member(&mut tx, &checked.plannable).await? {
        return Err(Problem::new("empty_audience", "audience", "holds nobody: choose another one").into());
    }
    let broadcast = store(&mut tx, &checked).await?;
    tx.commit().await?;
    Ok(broadcast)
}

/// What a broadcast would do, without storing it.
///
/// # Errors
/// Everything wrong with it at once.
pub async fn estimate_new(
    pool: &PgPool,
    config: &BroadcastConfig,
    new: &NewBroadcast,
) -> Result<Estimate, CreateError> {
    let mut conn = db::begin(pool).await?;
    let checked = check(&mut conn, config, new).await?;
    Ok(estimated(&mut conn, config, &checked.stored, &checked.plannable).await?)
}

/// What a stored broadcast would do if it were planned now.
///
/// # Errors
/// `broadcast_not_found`, or everything wrong with it.
pub async fn estimate_stored(
    pool: &PgPool,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
) -> Result<Estimate, CreateError> {
    let mut conn = db::begin(pool).await?;
    let stored = stored::read(&mut conn, broadcast)
        .await?
        .ok_or_else(|| not_found(broadcast))?;
    let plannable = stored.check(&config.prices)?;
    Ok(estimated(&mut conn, config, &stored, &plannable).await?)
}

async fn estimated(
    conn: &mut PgConnection,
    config: &BroadcastConfig,
    stored: &Stored,
    plannable: &Plannable,
) -> Result<Estimate, sqlx::Error> {
    let mut estimate = estimate::estimate(conn, plannable, stored.budget_tokens, &config.prices).await?;
    estimate
        .warnings
        .extend(compliance::warnings(conn, config, stored, &plannable.route).await?);
    Ok(estimate)
}

/// A new draft to those whom an ended broadcast did not reach, with its message, channels and senders.
///
/// # Errors
/// `broadcast_not_found`, `broadcast_not_finished`, `empty_audience`, or everything wrong with it.
pub async fn resend(
    pool: &PgPool,
    config: &BroadcastConfig,
    old: BroadcastId,
    outcomes: &[ResendOutcome],
) -> Result<BroadcastId, CreateError> {
    let mut tx = db::begin(pool).await?;
    let mut stored = stored::read(&mut tx, old).await?.ok_or_else(|| not_found(old))?;
    let mut outcomes = outcomes.to_vec();
    outcomes.sort_unstable();
    outcomes.dedup();
    let audience = Audience::Unreached {
        broadcast: old,
        outcomes,
    };
    stored.audience = audience.to_json();
    stored.name = format!("{} (resend)", stored.name).chars().take(120).collect();
    let plannable = stored.check(&config.prices)?;
    if let Some(problem) = stored::audience_problem(&mut tx, stored.shop, &audience).await? {
        return Err(problem.into());
    }
    if !any_member(&mut tx, &plannable).await? {
        let problem = "ended so for nobody who did not get it on another channel: there is nothing to send again";
        return Err(Problem::new("empty_audience", "outcomes", problem).into());
    }
    let checked = Checked {
        plannable,
        stored,
        scheduled_at: None,
        deadline_hours: 24,
    };
    let broadcast = store(&mut tx, &checked).await?;
    tx.commit().await?;
    Ok(broadcast)
}

/// A draft that sends one broadcast's message once, on one of its channels, to an address of the merchant's own. It
/// costs what any message costs.
///
/// # Errors
/// `broadcast_not_found`, `channel_not_chosen`, `address_missing`, `address_closed`, or everything wrong with it.
pub async fn test_send(
    pool: &PgPool,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
    channel: Channel,
    address: &str,
) -> Result<BroadcastId, CreateError> {
    let mut tx = db::begin(pool).await?;
    let mut stored = stored::read(&mut tx, broadcast)
        .await?
        .ok_or_else(|| not_found(broadcast))?;
    stored.chosen.retain(|one| one.channel == channel);
    let Some(chosen) = stored.chosen.first() else {
        let problem = format!("{channel} is not among the broadcast's channels: choose one of them");
        return Err(Problem::new("channel_not_chosen", "channel", problem).into());
    };
    // As it is stored, or the tester with this number would not be found.
    let number = (channel == Channel::Sms).then(|| phone::e164(address)).flatten();
    let address = number.as_deref().unwrap_or(address.trim());
    let tester = tester(&mut tx, stored.shop, chosen.sender_id, address).await?;
    stored.mode = Mode::PrioritySingle;
    stored.testers = true;
    stored.audience = serde_json::json!({ "customers": [tester] });
    stored.name = format!("Test: {}", stored.name).chars().take(120).collect();
    stored.budget_tokens = None;
    let plannable = stored.check(&config.prices)?;
    let checked = Checked {
        plannable,
        stored,
        scheduled_at: None,
        deadline_hours: 1,
    };
    let test = store(&mut tx, &checked).await?;
    tx.commit().await?;
    Ok(test)
}

/// The tester with this address; a new one the first time.
async fn tester(conn: &mut PgConnection, shop: ShopId, sender: Uuid, address: &str) -> Result<i64, CreateError> {
    if address.is_empty() {
        return Err(Problem::new("address_missing", "address", "is empty: say where the test goes").into());
    }
    let known: Option<(i64, String)> = sqlx::query_as(
        "select c.id, a.state from address a join customer c on c.id = a.customer_id
          where a.sender_id = $1 and a.address = $2 and a.shop_id = $3 and c.is_tester order by c.id limit 1",
    )
    .bind(sender)
    .bind(address)
    .bind(shop.0)
    .fetch_optional(&mut *conn)
    .await?;
    let customer = match known {
        Some((_, state)) if state != "active" => {
            let problem = format!("is {state}: nothing is sent there; choose another one");
            return Err(Problem::new("address_closed", "address", problem).into());
        }
        Some((customer, _)) => customer,
        None => {
            sqlx::query_scalar(
                "insert into customer (shop_id, first_name, is_tester) values ($1, '', true) returning id",
            )
            .bind(shop.0)
            .fetch_one(&mut *conn)
            .await?
        }
    };
    sqlx::query("select put_address($1, $2, $3)")
        .bind(sender)
        .bind(customer)
        .bind(address)
        .execute(conn)
        .await?;
    Ok(customer)
}

/// All checks of a draft, each mistake reported, the database's knowledge included.
pub(super) async fn check(
    conn: &mut PgConnection,
    config: &BroadcastConfig,
    new: &NewBroadcast,
) -> Result<Checked, CreateError> {
    let shop: Option<(String, String, String, DateTime<Utc>, NaiveDate)> = sqlx::query_as(
        "select state, url, time_zone, now(), (now() at time zone 'Asia/Taipei')::date from shop where id = $1",
    )
    .bind(new.shop.0)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((shop_state, shop_url, time_zone, now, day)) = shop else {
        let problem = format!("{} does not exist: `carillon seed` makes one to try with", new.shop);
        return Err(Problem::new("shop_not_found", "shop", problem).into());
    };
    let mut problems = Problems(Vec::new());
    let chosen = choose_senders(conn, new, &mut problems).await?;
    let scheduled_at = new.at.as_ref().map(|at| local_time(at, &time_zone, now));
    let scheduled_at = scheduled_at.transpose().unwrap_or_else(|problem| {
        problems.0.push(problem);
        None
    });
    let deadline_hours = new.deadline_hours.unwrap_or(24);
    if !(1..=720).contains(&deadline_hours) {
        let problem = format!("is {deadline_hours}: choose 1 to 720 hours");
        problems
            .0
            .push(Problem::new("deadline_invalid", "deadline_hours", problem));
    }
    let stored = Stored {
        cap: rules::applied_cap(conn, new.shop).await?,
        shop: new.shop,
        shop_state,
        shop_url,
        name: new.name.clone(),
        mode: new.mode,
        testers: false,
        content: new.content.clone(),
        audience: new.audience.to_json(),
        chosen,
        budget_tokens: new.budget_tokens.map(i64::from),
        day,
    };
    let plannable = match stored.check(&config.prices) {
        Ok(plannable) => {
            problems
                .0
                .extend(stored::audience_problem(conn, new.shop, &new.audience).await?);
            plannable
        }
        Err(more) => {
            // Channels whose sender is missing were left out above and may look like none at all.
            let known = !problems.0.is_empty();
            problems
                .0
                .extend(more.0.into_iter().filter(|one| !(known && one.id == "no_channel")));
            return Err(problems.into());
        }
    };
    problems.into_result()?;
    let deadline_hours = i32::try_from(deadline_hours).unwrap_or(24);
    Ok(Checked {
        plannable,
        stored,
        scheduled_at,
        deadline_hours,
    })
}

async fn any_member(conn: &mut PgConnection, plannable: &Plannable) -> Result<bool, sqlx::Error> {
    let mut query = sqlx::QueryBuilder::new("select exists (select from customer c where ");
    plannable.route.push_members(&mut query);
    query.push(")");
    query.build_query_scalar().persistent(false).fetch_one(conn).await
}

async fn store(conn: &mut PgConnection, checked: &Checked) -> Result<BroadcastId, sqlx::Error> {
    let (id, stored) = (BroadcastId::new(), &checked.stored);
    sqlx::query(
        "insert into broadcast (id, shop_id, name, purpose, mode, content, audience, budget_tokens, scheduled_at, deadline_hours)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(id.0)
    .bind(stored.shop.0)
    .bind(stored.name.trim())
    .bind(if stored.testers { "test" } else { "marketing" })
    .bind(stored.mode)
    .bind(&stored.content)
    .bind(&stored.audience)
    .bind(stored.budget_tokens)
    .bind(checked.scheduled_at)
    .bind(checked.deadline_hours)
    .execute(&mut *conn)
    .await?;
    for (position, (one, (_, tokens))) in stored.chosen.iter().zip(&checked.plannable.prices).enumerate() {
        sqlx::query(
            "insert into broadcast_channel (broadcast_id, position, channel, sender_id, tokens) values ($1, $2, $3, $4, $5)",
        )
        .bind(id.0)
        .bind(i16::try_from(position).unwrap_or(i16::MAX))
        .bind(one.channel)
        .bind(one.sender_id)
        .bind(i32::try_from(*tokens).unwrap_or(i32::MAX))
        .execute(&mut *conn)
        .await?;
    }
    Ok(id)
}

pub(super) fn not_found(broadcast: BroadcastId) -> Problem {
    Problem::new(
        "broadcast_not_found",
        "broadcast",
        format!("{broadcast} does not exist"),
    )
}
