//! From which account each channel is sent.
//!
//! Why it exists: a merchant names channels; which sender carries one is the shop's primary account, or the platform's,
//! unless a sender is named.
//!
//! It must never choose another shop's sender by itself; one that is named is checked in `stored`.

use carillon_jobs::ShopId;
use chrono::NaiveDate;

use super::{
    config::BroadcastConfig,
    create::NewBroadcast,
    problem::{Problem, Problems},
    routing::Mode,
    stored::Chosen,
};
use crate::{
    channel::Channel,
    db::{PgConnection, PgPool},
};

/// The named sender of each channel, or the shop's primary one, or the platform's. The app goes first where it must.
pub(super) async fn choose_senders(
    conn: &mut PgConnection,
    new: &NewBroadcast,
    problems: &mut Problems,
) -> Result<Vec<Chosen>, sqlx::Error> {
    let mut chosen: Vec<Chosen> = Vec::with_capacity(new.channels.len());
    for (index, (channel, sender)) in new.channels.iter().enumerate() {
        let found: Option<Chosen> = sqlx::query_as(
            "select $3 as channel, id as sender_id, channel as sender_channel, shop_id as sender_shop, state as sender_state,
                    sends_templates
               from sender
              where case when $2::uuid is null then channel = $3 and is_primary and (shop_id = $1 or shop_id is null)
                         else id = $2 end
              order by shop_id nulls last limit 1",
        )
        .bind(new.shop.0)
        .bind(sender.map(|sender| sender.0))
        .bind(channel)
        .fetch_optional(&mut *conn)
        .await?;
        match (found, sender) {
            (Some(one), _) => chosen.push(one),
            (None, Some(sender)) => problems.0.push(Problem::new(
                "sender_not_found",
                format!("channels[{index}].sender"),
                format!("{sender} does not exist: choose one of this shop or of the platform"),
            )),
            (None, None) => problems.0.push(Problem::new(
                "sender_missing",
                format!("channels[{index}]"),
                format!("is {channel}, for which neither the shop nor the platform has a primary sender: connect one"),
            )),
        }
    }
    if new.mode == Mode::AppPlusOne {
        chosen.sort_by_key(|one| one.channel != Channel::App);
    }
    Ok(chosen)
}

/// The channels of a broadcast that names none: the app; or, one after the other, every channel that has a price and a
/// primary sender that is connected.
///
/// # Errors
/// Only the database's.
pub async fn default_channels(
    pool: &PgPool,
    config: &BroadcastConfig,
    shop: ShopId,
    mode: Mode,
) -> Result<Vec<Channel>, sqlx::Error> {
    if mode == Mode::AppPlusOne {
        return Ok(vec![Channel::App]);
    }
    let rows: Vec<(Channel, NaiveDate)> = sqlx::query_as(
        "select distinct channel, (now() at time zone 'Asia/Taipei')::date from sender
          where is_primary and state = 'connected' and (shop_id = $1 or shop_id is null)",
    )
    .bind(shop.0)
    .fetch_all(pool)
    .await?;
    let usable = |channel: &Channel| {
        rows.iter()
            .any(|(of, day)| of == channel && config.prices.token_cost_at(*channel, *day).is_some())
    };
    // `Channel` lists them in the order of priority.
    Ok(Channel::ALL.into_iter().filter(usable).collect())
}
