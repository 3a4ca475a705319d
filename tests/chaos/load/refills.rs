//! Shops whose monthly tokens fall due: shops come in, some with a month behind them that ends in a moment; meanwhile they
//! are rung for, refilled by hand at once, suspended and back, or change their plan.
//! It must never post a grant of a current period itself: the product does.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{millis, rest, until_answered};
use crate::{
    dice::Dice,
    notes::Fact,
    outcome::{Once, Outcome},
    town::Town,
};

/// So many shops come in side by side.
const TRACKS: u64 = 3;
/// What is left to a shop of the month before: it expires.
const LEFT_OVER: i64 = 777;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whim {
    Nothing,
    /// Its refill is asked for by several at once, some with bells.
    Hasten {
        hands: u64,
        bells: u64,
    },
    /// Suspended for a while.
    Suspend {
        for_ms: u64,
    },
    /// Changes its plan.
    Change {
        to: &'static str,
    },
}

/// What one shop is like.
struct Brief {
    plan: &'static str,
    zone: &'static str,
    anchor_day: i16,
    /// None: a new shop, due at once.
    due_in_ms: Option<u64>,
    whim: Whim,
    after_ms: u64,
    rest_ms: u64,
}

impl Brief {
    fn of(dice: &mut Dice) -> Self {
        let plans = ["business", "core", "growth", "all-round"];
        let whim = match dice.between(1, 100) {
            1..=25 => Whim::Hasten {
                hands: dice.between(1, 4),
                bells: dice.between(0, 3),
            },
            26..=40 => Whim::Suspend {
                for_ms: dice.between(200, 4_000),
            },
            41..=55 => Whim::Change { to: dice.pick(&plans) },
            _ => Whim::Nothing,
        };
        Self {
            plan: dice.pick(&plans),
            zone: dice.pick(&["Asia/Taipei", "America/New_York", "Europe/London", "Pacific/Apia"]),
            anchor_day: dice.pick(&[1, 15, 28, 31]),
            due_in_ms: dice.chance(80).then(|| dice.between(500, 6_000)),
            whim,
            after_ms: dice.between(0, 4_000),
            rest_ms: dice.between(0, 1_000),
        }
    }
}

/// Brings shops until told to stop.
pub(super) async fn run(town: Arc<Town>, stop: CancellationToken) {
    let mut tracks = tokio::task::JoinSet::new();
    for track in 0..TRACKS {
        let (town, stop) = (town.clone(), stop.clone());
        tracks.spawn(async move {
            stop.run_until_cancelled(bring(&town, track)).await;
        });
    }
    tracks.join_all().await;
}

async fn bring(town: &Town, track: u64) {
    for n in 0_u64.. {
        let brief = Brief::of(&mut Dice::of(town.seed, &[3, track, n]));
        let (shop, period) = until_answered(|| open(town, &brief)).await;
        town.notes.add(Fact::Opened, &shop);
        rest(brief.after_ms).await;
        match brief.whim {
            Whim::Nothing => {}
            Whim::Hasten { hands, bells } => {
                let hands = join_all((0..hands).map(|_| {
                    until_answered(|| tell(town, "select refill_shop($1) is not null and $2 = $2", shop, ""))
                }));
                let bells =
                    join_all((0..bells).map(|_| {
                        super::ring(town, "monthly-token-refill", json!({"shop_id": shop, "period": period}))
                    }));
                tokio::join!(hands, bells);
            }
            Whim::Suspend { for_ms } => {
                let set = "update shop set state = $2 where id = $1 returning true";
                until_answered(|| tell(town, set, shop, "suspended")).await;
                rest(for_ms).await;
                until_answered(|| tell(town, set, shop, "active")).await;
            }
            Whim::Change { to } => {
                until_answered(|| tell(town, "select change_plan($1, $2) is not null", shop, to)).await;
            }
        }
        rest(brief.rest_ms).await;
    }
}

/// Opens a shop and says which period is its current one. A yes that was lost leaves a shop nobody knows of, which is
/// refilled like any other.
async fn open(town: &Town, brief: &Brief) -> sqlx::Result<(Uuid, String)> {
    let id = Uuid::now_v7();
    // The judge reads the first plan from the name, and when the refill falls due where nothing hastens or delays it.
    let due = match (brief.due_in_ms, brief.whim) {
        (Some(in_ms), Whim::Nothing) => in_ms.to_string(),
        (None, Whim::Nothing) => "0".to_owned(),
        _ => String::new(),
    };
    let mut tx = town.pool.begin().await?;
    let period: String = sqlx::query_scalar(
        "insert into shop (id, name, url, plan, time_zone, anchor_day) values ($1, $2, 'https://shop.example', $3, $4, $5)
         returning period_at(now(), time_zone, anchor_day)",
    )
    .bind(id)
    .bind(format!("refill {} {due}", brief.plan))
    .bind(brief.plan)
    .bind(brief.zone)
    .bind(brief.anchor_day)
    .fetch_one(&mut *tx)
    .await?;
    if let Some(in_ms) = brief.due_in_ms {
        sqlx::query("select ledger_refill($1, to_char(($2 || '-01')::date - interval '1 month', 'YYYY-MM'), $3)")
            .bind(id)
            .bind(&period)
            .bind(LEFT_OVER)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "update token_account set refill_due_at = now() + $2 * interval '1 millisecond' where shop_id = $1",
        )
        .bind(id)
        .bind(millis(in_ms))
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok((id, period))
}

async fn tell(town: &Town, sql: &'static str, shop: Uuid, with: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(sql)
        .bind(shop)
        .bind(with)
        .fetch_one(&town.pool)
        .await
}

/// Lets back whom the end of the run caught suspended.
pub(super) async fn let_go(town: &Town) -> sqlx::Result<()> {
    sqlx::query("update shop set state = 'active' where state = 'suspended'")
        .execute(&town.pool)
        .await?;
    Ok(())
}

/// Shops whose refill is due, or will be in a moment.
pub(super) async fn left(town: &Town) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select format('the refill of shop %s is due since %s', shop_id, refill_due_at)
           from token_account where refill_due_at < now() + interval '1 minute'",
    )
    .fetch_all(&town.pool)
    .await
}

#[derive(sqlx::FromRow)]
struct Shop {
    id: Uuid,
    /// One that came in during the run, and spends nothing.
    is_new: bool,
    due_at: Option<DateTime<Utc>>,
    period: String,
    allowance: i64,
    /// What the best of its plans gives.
    plan_gives: i64,
    grants: i64,
    granted: i64,
    granted_at: Option<DateTime<Utc>>,
    was_late: bool,
    /// Grants of periods that were never its current one, nor the one before.
    foreign: Vec<String>,
}

const SHOPS: &str = "with looked as (
            select s.*, s.name like 'refill %' as is_new, period_at(now(), s.time_zone, s.anchor_day) as period,
                   s.created_at + nullif(split_part(s.name, ' ', 3), '')::float8 * interval '1 millisecond' as due_at
              from shop s)
         select s.id, s.is_new, case when s.is_new then s.due_at end as due_at, s.period, a.allowance,
                greatest(plan_allowance_at(s.plan, price_day()),
                         case when s.is_new then plan_allowance_at(split_part(s.name, ' ', 2), price_day()) end) as plan_gives,
                count(*) filter (where e.operation = 'grant:' || s.period) as grants,
                coalesce(sum(e.allowance) filter (where split_part(e.operation, ':', 2) = s.period), 0)::bigint as granted,
                min(e.at) filter (where e.operation = 'grant:' || s.period) as granted_at,
                coalesce(bool_or(e.late), false) as was_late,
                coalesce(array_agg(e.operation) filter (where split_part(e.operation, ':', 2) not in
                    (s.period, to_char((s.period || '-01')::date - interval '1 month', 'YYYY-MM'))), '{}') as foreign
           from looked s join token_account a on a.shop_id = s.id
           left join ledger_entry e on e.shop_id = s.id and e.kind = 'grant'
          group by s.id, s.is_new, s.due_at, s.period, a.allowance, s.plan, s.name";

/// Each shop has one grant of its current period, over what its plan gives, and nothing is left to it of the month before.
pub(super) async fn judge(town: &Town, outcome: &mut Outcome) {
    let shops: Vec<Shop> = sqlx::query_as(SHOPS).fetch_all(&town.pool).await.unwrap();
    let once = outcome.once.entry("refills").or_default();
    let there: BTreeSet<String> = shops.iter().map(|shop| shop.id.to_string()).collect();
    for shop in &shops {
        look(shop, once);
    }
    for id in town.notes.all(Fact::Opened).difference(&there) {
        once.missing.add(|| format!("shop {id} was confirmed and is not there"));
    }
}

fn look(shop: &Shop, once: &mut Once) {
    let Shop {
        id,
        period,
        grants,
        granted,
        plan_gives,
        ..
    } = shop;
    once.due += 1;
    once.done += u64::from(*grants > 0);
    *once.counts.entry("late").or_default() += u64::from(shop.was_late);
    if let Some(took) = shop.due_at.zip(shop.granted_at).map(|(due_at, at)| at - due_at) {
        let took_ms = u64::try_from(took.num_milliseconds()).unwrap_or(0);
        once.slowest_ms = once.slowest_ms.max(took_ms);
    }
    match grants {
        0 => once.missing.add(|| format!("shop {id} has no grant of {period}")),
        1 if granted != plan_gives => {
            once.undue
                .add(|| format!("shop {id} was granted {granted} for {period} and not {plan_gives}"));
        }
        1 if shop.is_new && shop.allowance != *granted => {
            let left = shop.allowance;
            once.undue
                .add(|| format!("shop {id} has {left} and not {granted}: nothing was spent"));
        }
        1 => {}
        _ => once.twice.add(|| format!("shop {id} has {grants} grants of {period}")),
    }
    for operation in &shop.foreign {
        once.undue.add(|| format!("shop {id} has {operation}"));
    }
}
