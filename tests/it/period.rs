//! The calendar of refills, told twice: in Rust and in SQL.

use carillon::ledger::Period;
use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::fixture_db::database;

#[tokio::test]
async fn the_calendar_in_sql_is_the_one_in_rust() {
    let db = database().await;
    let known: Vec<String> = sqlx::query_scalar(
        "select name from pg_timezone_names where name in ('UTC', 'GMT')
            or not exists (select from pg_timezone_abbrevs where abbrev = upper(name))",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let zones: Vec<Tz> = chrono_tz::TZ_VARIANTS
        .into_iter()
        .filter(|zone| known.iter().any(|name| name == zone.name()))
        .collect();
    assert!(zones.len() > 400, "{} zones", zones.len());
    let mut dice = StdRng::seed_from_u64(15);
    // Both know the past; of the future their tables may be of different years.
    let (first, last) = (954_547_200, 1_704_067_200);
    let mut asked: Vec<(DateTime<Utc>, Tz, u8)> = Vec::new();
    for zone in zones {
        for _ in 0..20 {
            let anchor_day = dice.random_range(1..=31);
            let period = Period::at(
                DateTime::from_timestamp(dice.random_range(first..last), 0).unwrap(),
                zone,
                anchor_day,
            );
            // The first second of a period, the last of the one before it, and one anywhere.
            let start = period.unwrap().starts_at(zone, anchor_day).unwrap();
            let anywhere = DateTime::from_timestamp(dice.random_range(first..last), 0).unwrap();
            asked.extend([start, start - Duration::seconds(1), anywhere].map(|time| (time, zone, anchor_day)));
        }
    }
    let rows: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
        "select p, period_starts_at(p, z, a)
           from unnest($1::timestamptz[], $2::text[], $3::int[]) with ordinality as q (t, z, a, n), lateral period_at(t, z, a) as p
          order by n",
    )
    .bind(asked.iter().map(|(time, ..)| *time).collect::<Vec<_>>())
    .bind(asked.iter().map(|(_, zone, _)| zone.name().to_owned()).collect::<Vec<_>>())
    .bind(asked.iter().map(|(.., anchor_day)| i32::from(*anchor_day)).collect::<Vec<_>>())
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), asked.len());
    for ((time, zone, anchor_day), (period, start)) in asked.into_iter().zip(rows) {
        let ours = Period::at(time, zone, anchor_day).unwrap();
        assert_eq!(
            (ours.to_string(), ours.starts_at(zone, anchor_day).unwrap()),
            (period, start),
            "at {time} in {zone}, anchor day {anchor_day}"
        );
    }
}
