//! A broadcast's row, read and checked.
//!
//! Why it exists: frontends may write rows by SQL, and what held when a broadcast was scheduled may not hold when its
//! time comes. What leaves this file is trusted by type.
//!
//! It must never put a message's text into a problem beyond what the content check itself quotes.

use carillon_jobs::{BroadcastId, SenderId, ShopId};
use chrono::NaiveDate;
use serde_json::Value;
use sqlx::{FromRow, types::Uuid};

use super::{
    audience::Audience,
    check,
    frequency::AppliedCap,
    problem::{Problem, Problems},
    routing::Mode,
    routing_sql::{Leg, Route},
    rules,
};
use crate::{
    channel::{Channel, Content},
    db::PgConnection,
    prices::Prices,
};

/// One channel of a broadcast with what is known of its sender.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Chosen {
    pub(super) channel: Channel,
    pub(super) sender_id: Uuid,
    pub(super) sender_channel: Channel,
    pub(super) sender_shop: Option<Uuid>,
    pub(super) sender_state: String,
    pub(super) sends_templates: bool,
}

/// A broadcast as its row says, unchecked.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) shop: ShopId,
    pub(super) shop_state: String,
    /// The shop's; once planning has begun, what it was then.
    pub(super) shop_url: String,
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) testers: bool,
    pub(super) content: Value,
    pub(super) audience: Value,
    pub(super) chosen: Vec<Chosen>,
    pub(super) budget_tokens: Option<i64>,
    /// Today in Asia/Taipei, by Postgres' clock: the day whose prices hold.
    pub(super) day: NaiveDate,
    /// The shop's frequency cap as it holds now.
    pub(super) cap: Option<AppliedCap>,
}

/// A broadcast that can be planned.
#[derive(Debug)]
pub(super) struct Plannable {
    pub(super) route: Route,
    /// The price of every channel, also of those whose sender is disconnected.
    pub(super) prices: Vec<(Channel, u32)>,
    /// Channels left out because their sender is disconnected.
    pub(super) disconnected: Vec<Channel>,
    /// Today in Asia/Taipei.
    pub(super) day: NaiveDate,
}

#[derive(FromRow)]
struct BroadcastRow {
    shop_id: Uuid,
    shop_state: String,
    shop_url: String,
    name: String,
    mode: Mode,
    purpose: String,
    content: Value,
    audience: Value,
    budget_tokens: Option<i64>,
    day: NaiveDate,
}

/// Reads a broadcast; none when there is none.
pub(super) async fn read(conn: &mut PgConnection, broadcast: BroadcastId) -> Result<Option<Stored>, sqlx::Error> {
    let row: Option<BroadcastRow> = sqlx::query_as(
        "select b.shop_id, s.state as shop_state, coalesce(b.shop_url, s.url) as shop_url, b.name, b.mode, b.purpose, b.content, b.audience, b.budget_tokens,
                (now() at time zone 'Asia/Taipei')::date as day
           from broadcast b join shop s on s.id = b.shop_id where b.id = $1",
    )
    .bind(broadcast.0)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let chosen = sqlx::query_as(
        "select c.channel, c.sender_id, s.channel as sender_channel, s.shop_id as sender_shop, s.state as sender_state,
                s.sends_templates
           from broadcast_channel c join sender s on s.id = c.sender_id
          where c.broadcast_id = $1 order by c.position",
    )
    .bind(broadcast.0)
    .fetch_all(&mut *conn)
    .await?;
    let cap = rules::applied_cap(conn, ShopId(row.shop_id)).await?;
    Ok(Some(Stored {
        cap,
        shop: ShopId(row.shop_id),
        shop_state: row.shop_state,
        shop_url: row.shop_url,
        name: row.name,
        mode: row.mode,
        testers: row.purpose == "test",
        content: row.content,
        audience: row.audience,
        chosen,
        budget_tokens: row.budget_tokens,
        day: row.day,
    }))
}

impl Stored {
    /// Checks everything that can be checked without the database.
    pub(super) fn check(&self, prices: &Prices) -> Result<Plannable, Problems> {
        let mut problems = Problems(Vec::new());
        if self.shop_state != "active" {
            problems.0.push(Problem::new(
                "shop_suspended",
                "shop",
                "is suspended: nothing can be sent",
            ));
        }
        check::name(&self.name, &mut problems);
        let channels: Vec<Channel> = self.chosen.iter().map(|one| one.channel).collect();
        check::channels(self.mode, &channels, &mut problems);
        let prices = check::prices(prices, self.day, &channels, &mut problems);
        self.check_senders(&mut problems);
        match Content::parse(&self.content) {
            Ok(content) => check::content(&content, &channels, &mut problems),
            Err(invalid) => problems.add_content(&invalid),
        }
        let audience = Audience::parse(&self.audience)
            .map_err(|problem| problems.0.push(problem))
            .ok();
        match audience {
            Some(audience) if problems.0.is_empty() => Ok(self.plannable(audience, &prices)),
            _ => Err(problems),
        }
    }

    fn check_senders(&self, problems: &mut Problems) {
        for (index, one) in self.chosen.iter().enumerate() {
            let field = format!("channels[{index}].sender");
            let channel = one.channel;
            if one.sender_channel != channel {
                let problem = format!(
                    "sends {}, not {channel}: choose a sender of {channel}",
                    one.sender_channel
                );
                problems.0.push(Problem::new("sender_of_other_channel", field, problem));
            } else if one.sender_shop.is_some_and(|shop| shop != self.shop.0) {
                let problem = "belongs to another shop: choose one of this shop or of the platform";
                problems.0.push(Problem::new("sender_not_found", field, problem));
            }
        }
        // One disconnected sender among several only makes its channel unreachable.
        if !self.chosen.is_empty() && self.chosen.iter().all(Chosen::disconnected) {
            problems.0.push(Problem::new(
                "sender_disconnected",
                "channels",
                "has no connected sender left: connect one again",
            ));
        }
    }

    fn plannable(&self, audience: Audience, prices: &[u32]) -> Plannable {
        let priced: Vec<(&Chosen, u32)> = self.chosen.iter().zip(prices.iter().copied()).collect();
        let legs = priced
            .iter()
            .filter(|(one, _)| !one.disconnected())
            .map(|(one, tokens)| Leg {
                channel: one.channel,
                sender: SenderId(one.sender_id),
                tokens: *tokens,
                windowless: one.channel == Channel::Whatsapp && one.sends_templates,
            });
        let route = Route {
            shop: self.shop,
            mode: self.mode,
            legs: legs.collect(),
            audience,
            testers: self.testers,
            // A test goes to the merchant's own addresses, as often as they like.
            cap: self.cap.filter(|_| !self.testers),
        };
        Plannable {
            route,
            day: self.day,
            prices: priced.iter().map(|(one, tokens)| (one.channel, *tokens)).collect(),
            disconnected: self
                .chosen
                .iter()
                .filter(|one| one.disconnected())
                .map(|one| one.channel)
                .collect(),
        }
    }
}

impl Chosen {
    fn disconnected(&self) -> bool {
        self.sender_state == "disconnected"
    }
}

/// What is wrong with an audience as seen from the database: an earlier broadcast that is another shop's, or not over.
pub(super) async fn audience_problem(
    conn: &mut PgConnection,
    shop: ShopId,
    audience: &Audience,
) -> Result<Option<Problem>, sqlx::Error> {
    let Audience::Unreached { broadcast, .. } = audience else {
        return Ok(None);
    };
    let over: Option<bool> =
        sqlx::query_scalar("select finished_at is not null from broadcast where id = $1 and shop_id = $2")
            .bind(broadcast.0)
            .bind(shop.0)
            .fetch_optional(conn)
            .await?;
    Ok(match over {
        Some(true) => None,
        Some(false) => Some(Problem::new(
            "broadcast_not_finished",
            "audience.broadcast",
            "is still sending: wait until it has ended",
        )),
        None => Some(Problem::new(
            "broadcast_not_found",
            "audience.broadcast",
            "is no broadcast of this shop",
        )),
    })
}
