//! Who gets a conversation by itself: the rule (pure), and giving it to them.
//!
//! Why it exists: a shop's staff share what comes in, each in turn, and only those who are at work and may answer.
//!
//! It must never take a conversation from somebody, and never give one to a person who may not answer it.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveTime, TimeDelta, Utc, Weekday};
use sqlx::types::Uuid;

use super::WorkingHours;
use crate::db::{self, PgPool};

/// How long after the permission to send messages was granted it counts.
pub const PERMISSION_DELAY: TimeDelta = TimeDelta::minutes(5);

/// A staff member who might get a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub staff: i64,
    /// Since when this person may send messages; `None`: may not.
    pub may_send_since: Option<DateTime<Utc>>,
    /// When this person works; `None`: no hours were given, so never.
    pub hours: Option<WorkingHours>,
    /// When this person last got a conversation, by hand or by itself.
    pub last_assigned_at: Option<DateTime<Utc>>,
}

impl Candidate {
    fn is_ready(&self, now: DateTime<Utc>) -> bool {
        let permitted = self.may_send_since.is_some_and(|since| now - since >= PERMISSION_DELAY);
        permitted && self.hours.as_ref().is_some_and(|hours| hours.on_shift(now))
    }
}

/// Who gets the next conversation: of those who are ready whoever never got one, by chance; then the one whose last is longest
/// ago, of equals the first. `None`: nobody is ready and it stays as it is. `chance` is any number, a new one each time.
#[must_use]
pub fn choose(candidates: &[Candidate], now: DateTime<Utc>, chance: u64) -> Option<i64> {
    let ready = || candidates.iter().filter(|candidate| candidate.is_ready(now));
    let never: Vec<i64> = ready()
        .filter(|candidate| candidate.last_assigned_at.is_none())
        .map(|candidate| candidate.staff)
        .collect();
    if let Some(place) = chance.checked_rem(never.len() as u64) {
        return never.get(usize::try_from(place).ok()?).copied();
    }
    ready()
        .min_by_key(|candidate| (candidate.last_assigned_at, candidate.staff))
        .map(|candidate| candidate.staff)
}

/// A row of `staff` with its hours.
#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    shop_id: Uuid,
    may_send_since: Option<DateTime<Utc>>,
    last_assigned_at: Option<DateTime<Utc>>,
    time_zone: Option<String>,
    days: Option<Vec<i16>>,
    starts_at: Option<NaiveTime>,
    ends_at: Option<NaiveTime>,
    now: DateTime<Utc>,
}

impl Row {
    fn hours(&self) -> Option<WorkingHours> {
        let zone = self.time_zone.as_deref()?;
        let Ok(zone) = zone.parse() else {
            tracing::warn!(
                staff.id = self.id,
                "Working hours are in a time zone nobody knows: nothing is assigned by them"
            );
            return None;
        };
        Some(WorkingHours {
            zone,
            // Monday is 1 in Postgres and 0 here.
            days: self
                .days
                .iter()
                .flatten()
                .filter_map(|day| Weekday::try_from(u8::try_from(day - 1).ok()?).ok())
                .collect(),
            starts_at: self.starts_at?,
            ends_at: self.ends_at?,
        })
    }
}

/// Conversations of one shop given out in one transaction.
const TOGETHER: i64 = 50;

/// Gives out what waited for somebody to come to work, or to be permitted; how many conversations found somebody. Anybody may call
/// it, any number at once.
pub async fn assign_waiting(db: &PgPool) -> Result<usize, sqlx::Error> {
    let shops: Vec<Uuid> = sqlx::query_scalar(
        "select s.shop_id from inbox_setting s
          where s.auto_assign and exists (select from conversation t where t.shop_id = s.shop_id and t.awaits_staff)",
    )
    .fetch_all(db)
    .await?;
    if shops.is_empty() {
        return Ok(0);
    }
    // Nothing is locked while nobody is at work.
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{STAFF} where s.shop_id = any ($1)")))
        .bind(&shops)
        .fetch_all(db)
        .await?;
    let mut given = 0;
    for (shop, candidates) in by_shop(&rows) {
        let now = rows.first().map(|row| row.now).unwrap_or_default();
        if choose(&candidates, now, 0).is_none() {
            continue;
        }
        loop {
            let waiting: Vec<i64> = sqlx::query_scalar(
                "select id from conversation where shop_id = $1 and awaits_staff order by id limit $2",
            )
            .bind(shop)
            .bind(TOGETHER)
            .fetch_all(db)
            .await?;
            let step = give_out(db, &waiting).await?;
            given += step;
            if step == 0 || i64::try_from(waiting.len()).unwrap_or(0) < TOGETHER {
                break;
            }
        }
    }
    Ok(given)
}

const STAFF: &str = "
    select s.id, s.shop_id, s.may_send_since, s.last_assigned_at, h.time_zone, h.days, h.starts_at, h.ends_at, now() as now
      from staff s left join working_hours h on h.id = s.working_hours_id";

fn by_shop(rows: &[Row]) -> BTreeMap<Uuid, Vec<Candidate>> {
    let mut staff: BTreeMap<Uuid, Vec<Candidate>> = BTreeMap::new();
    for row in rows {
        staff.entry(row.shop_id).or_default().push(Candidate {
            staff: row.id,
            may_send_since: row.may_send_since,
            hours: row.hours(),
            last_assigned_at: row.last_assigned_at,
        });
    }
    staff
}

/// Gives these conversations to whoever is ready, where they still wait for somebody; how many found somebody. A transaction of
/// its own: conversations are locked, then their shops' staff, so that two workers do not choose the same person.
pub(super) async fn give_out(db: &PgPool, conversations: &[i64]) -> Result<usize, sqlx::Error> {
    if conversations.is_empty() {
        return Ok(0);
    }
    let mut tx = db::begin(db).await?;
    let pending: Vec<(i64, Uuid)> = sqlx::query_as(
        "select id, shop_id from conversation where id = any ($1) and awaits_staff and assigned_staff_id is null
          order by id for no key update",
    )
    .bind(conversations)
    .fetch_all(&mut *tx)
    .await?;
    let shops: Vec<Uuid> = pending.iter().map(|(_, shop)| *shop).collect();
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{STAFF} where s.shop_id = any ($1) order by s.id for no key update of s"
    )))
    .bind(&shops)
    .fetch_all(&mut *tx)
    .await?;
    let mut staff = by_shop(&rows);
    let Some(now) = rows.first().map(|row| row.now) else {
        return Ok(0);
    };
    let mut assigned = 0;
    for (conversation, shop) in pending {
        let candidates = staff.entry(shop).or_default();
        let Some(chosen) = choose(candidates, now, rand::random()) else {
            continue;
        };
        sqlx::query("select assign_conversation($1, $2, null)")
            .bind(conversation)
            .bind(chosen)
            .execute(&mut *tx)
            .await?;
        let last = candidates
            .iter()
            .filter_map(|candidate| candidate.last_assigned_at)
            .max();
        for candidate in candidates.iter_mut().filter(|candidate| candidate.staff == chosen) {
            candidate.last_assigned_at = Some(last.map_or(now, |last| now.max(last + TimeDelta::microseconds(1))));
        }
        assigned += 1;
    }
    tx.commit().await?;
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    fn moment(secs: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + secs, 0).unwrap()
    }

    /// On shift always, permitted for long.
    fn candidate(staff: i64, last_assigned: Option<i64>) -> Candidate {
        Candidate {
            staff,
            may_send_since: Some(moment(-100_000)),
            hours: Some(WorkingHours {
                zone: chrono_tz::UTC,
                days: (0..7).map(|day| Weekday::try_from(day).unwrap()).collect(),
                starts_at: NaiveTime::MIN,
                ends_at: NaiveTime::MIN,
            }),
            last_assigned_at: last_assigned.map(moment),
        }
    }

    #[test]
    fn a_permission_counts_from_its_fifth_minute() {
        let granted = |secs_ago: i64| Candidate {
            may_send_since: Some(moment(-secs_ago)),
            ..candidate(1, None)
        };
        assert_eq!(choose(&[granted(299)], moment(0), 0), None);
        assert_eq!(choose(&[granted(300)], moment(0), 0), Some(1));
        let never = Candidate {
            may_send_since: None,
            ..candidate(1, None)
        };
        assert_eq!(choose(&[never], moment(0), 0), None);
    }

    #[test]
    fn nobody_on_shift_leaves_it_pending() {
        let off = Candidate {
            hours: None,
            ..candidate(1, None)
        };
        assert_eq!(choose(&[off], moment(0), 0), None);
        assert_eq!(choose(&[], moment(0), 7), None);
    }

    #[test]
    fn who_never_got_one_comes_before_who_did_and_by_chance() {
        let all = [candidate(1, Some(-9_000)), candidate(2, None), candidate(3, None)];
        let chosen: Vec<_> = (0..4).map(|chance| choose(&all, moment(0), chance).unwrap()).collect();
        assert_eq!(chosen, [2, 3, 2, 3]);
    }

    #[test]
    fn then_the_one_whose_last_is_longest_ago() {
        let all = [
            candidate(1, Some(-10)),
            candidate(2, Some(-30)),
            candidate(3, Some(-30)),
        ];
        assert_eq!(choose(&all, moment(0), 5), Some(2));
    }

    proptest! {
        #[test]
        fn whoever_is_chosen_is_ready_and_nobody_waits_longer(
            people in prop::collection::vec((0..900_i64, prop::option::of(-50..0_i64), any::<bool>()), 0..8), chance: u64,
        ) {
            let all: Vec<Candidate> = people.iter().zip(1..).map(|((granted, last, works), staff)| Candidate {
                may_send_since: Some(moment(-granted)),
                hours: works.then(|| candidate(1, None).hours.unwrap()),
                ..candidate(staff, *last)
            }).collect();
            let ready = |person: &&(i64, Option<i64>, bool)| person.0 >= 300 && person.2;
            match choose(&all, moment(0), chance) {
                None => prop_assert_eq!(people.iter().filter(ready).count(), 0),
                Some(staff) => {
                    let person = &people[usize::try_from(staff).unwrap() - 1];
                    prop_assert!(ready(&person));
                    prop_assert!(people.iter().filter(ready).all(|other| person.1 <= other.1), "None is before every time");
                }
            }
        }

        /// With everybody always ready, everybody gets the same share, one apart at most.
        #[test]
        fn turns_go_round(people in 1..7_i64, rounds in 1..40_i64, seed: u64) {
            let mut all: Vec<Candidate> = (1..=people).map(|staff| candidate(staff, None)).collect();
            let mut got = vec![0_i64; usize::try_from(people).unwrap()];
            for round in 0..rounds {
                let chosen = choose(&all, moment(round), seed.rotate_left(u32::try_from(round).unwrap())).unwrap();
                let place = usize::try_from(chosen).unwrap() - 1;
                all[place].last_assigned_at = Some(moment(round));
                got[place] += 1;
            }
            prop_assert!(got.iter().max().unwrap() - got.iter().min().unwrap() <= 1);
        }
    }
}
