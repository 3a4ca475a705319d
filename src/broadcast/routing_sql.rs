//! The routing rule as SQL: one text, built by one function, for the estimate and for every chunk of planning.
//!
//! Why it exists: a million customers are routed inside Postgres, set-based. `routing` says what the rule is and why;
//! this file says it again as joins, and a property test compares the two.
//!
//! The shape: `base` has one row per customer of the audience with one or two *slots* (channel, address, twin group):
//! one in `priority_single`, where the slot's channel is the first reachable one, and one per channel in
//! `app_plus_one`. `lost_N` are the customers whose slot N goes to a twin. What follows, `picks` and `skips`, is what
//! each customer gets, and who gets nothing and why.
//!
//! Where the shop has a frequency cap, `capped` comes first: who has had as many broadcasts as it allows, by one look at the
//! deliveries of its latest broadcasts over the same range of customers. Without a cap it is not there.
//!
//! It must never put a value into SQL text except names from our own enums: ids are bound parameters.

use carillon_jobs::{BroadcastId, SenderId, ShopId};
use sqlx::{Postgres, QueryBuilder};

use super::{
    audience::Audience,
    frequency::AppliedCap,
    routing::{Mode, window_hours},
};
use crate::channel::Channel;

/// One channel of a broadcast: from which sender, and at what price a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leg {
    /// The channel.
    pub channel: Channel,
    /// The account it is sent from.
    pub sender: SenderId,
    /// Tokens a message.
    pub tokens: u32,
    /// The sender sends by approved templates, which need no window.
    pub windowless: bool,
}

/// What routing needs to know of a broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whose customers.
    pub shop: ShopId,
    /// How the channels work together.
    pub mode: Mode,
    /// The channels in their order. Those whose sender is disconnected are left out: nobody is reachable there.
    pub legs: Vec<Leg>,
    /// Which customers.
    pub audience: Audience,
    /// Testers only, instead of everybody but testers.
    pub testers: bool,
    /// The shop's frequency cap; none: it has none, or this is a test.
    pub cap: Option<AppliedCap>,
}

/// The part of the audience one statement routes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Everybody, and how many are reachable on each channel: columns `open_0`, `open_1`, … of `base`.
    Whole,
    /// The customers after one id up to another, seeing what this broadcast has planned before.
    Chunk {
        broadcast: BroadcastId,
        after: i64,
        upto: i64,
    },
}

impl Route {
    fn slots(&self) -> usize {
        match self.mode {
            Mode::AppPlusOne => self.legs.len(),
            Mode::PrioritySingle => 1,
        }
    }

    /// Adds the condition on `customer c` for the audience, without a `where`.
    pub(super) fn push_members(&self, query: &mut QueryBuilder<Postgres>) {
        query.push("c.shop_id = ").push_bind(self.shop.0);
        query.push(if self.testers {
            " and c.is_tester"
        } else {
            " and not c.is_tester"
        });
        self.audience.push_condition(query);
    }

    /// Adds the common table expressions, beginning with `with` and ending after `skips`:
    /// `base`, `picks (channel, customer_id, address_id, twin_of)` and `skips (customer_id, reason)`.
    pub(super) fn push_routed(&self, query: &mut QueryBuilder<Postgres>, part: Part) {
        self.push_base(query, part);
        for slot in 0..self.slots() {
            push_lost(query, slot, part);
        }
        query.push(", picks as (");
        for slot in 0..self.slots() {
            // A hashed look-up of the few who lost: joining them would sort or hash the whole base once more.
            query.push(if slot == 0 { "" } else { " union all " });
            query.push(format_args!(
                "select channel_{slot} as channel, customer_id, address_{slot} as address_id, twin_{slot} as twin_of
                   from base where channel_{slot} is not null
                    and (twin_{slot} is null or customer_id not in (select customer_id from lost_{slot}))"
            ));
        }
        if self.slots() == 0 {
            query.push("select null::channel, null::bigint, null::bigint, null::bigint where false");
        }
        query.push("), skips as (select customer_id, reason from base where true");
        for slot in 0..self.slots() {
            query.push(format_args!(
                " and (channel_{slot} is null
                    or (twin_{slot} is not null and customer_id in (select customer_id from lost_{slot})))"
            ));
        }
        query.push(")");
    }

    fn push_base(&self, query: &mut QueryBuilder<Postgres>, part: Part) {
        query.push("with ");
        if let Some(cap) = self.cap {
            self.push_capped(query, cap, part);
        }
        query.push("base as materialized (select c.id as customer_id");
        self.push_slots(query);
        self.push_reason(query);
        if matches!(part, Part::Whole) {
            for place in 0..self.legs.len() {
                query.push(format_args!(", {} as open_{place}", self.usable(place)));
            }
        }
        query.push(" from customer c");
        for (place, leg) in self.legs.iter().enumerate() {
            query.push(format_args!(
                " left join address a{place} on a{place}.customer_id = c.id and a{place}.is_current and a{place}.sender_id = "
            ));
            query.push_bind(leg.sender.0);
            // The planner does not derive the range of the joined table from that of customer.
            push_range(query, &format!("a{place}.customer_id"), part);
        }
        if self.cap.is_some() {
            query.push(" left join capped k on k.customer_id = c.id");
        }
        query.push(" where ");
        self.push_members(query);
        push_range(query, "c.id", part);
        query.push(")");
    }

    /// Who has had enough. A broadcast counts from the moment it opened, one that is being planned beside this one as well; a
    /// message that is still to go or of which nobody knows counts, one that certainly did not arrive does not.
    fn push_capped(&self, query: &mut QueryBuilder<Postgres>, cap: AppliedCap, part: Part) {
        query.push(
            "capped as materialized (
                select d.customer_id
                  from (select b.id, bc.channel from broadcast b join broadcast_channel bc on bc.broadcast_id = b.id
                         where b.purpose = 'marketing' and bc.planned > 0 and b.shop_id = ",
        );
        query.push_bind(self.shop.0);
        query.push(" and (b.sending_at >= ").push_bind(cap.since);
        query.push(" or (b.sending_at is null and coalesce(b.resume_state, b.state) = 'planning'))");
        if let Part::Chunk { broadcast, .. } = part {
            query.push(" and b.id <> ").push_bind(broadcast.0);
        }
        // One range of each broadcast's key, whatever the planner knows of a fresh partition.
        query.push(
            ") r cross join lateral (
                    select d.customer_id from delivery d
                      left join delivery_result x on x.broadcast_id = d.broadcast_id and x.channel = d.channel
                                                 and x.customer_id = d.customer_id",
        );
        push_range(query, "x.customer_id", part);
        query.push(" where d.broadcast_id = r.id and d.channel = r.channel");
        push_range(query, "d.customer_id", part);
        query.push(
            " and (x.state is null or x.state not in ('failed', 'skipped', 'cancelled', 'expired')) offset 0) d
                 group by d.customer_id having count(distinct r.id) >= ",
        );
        query.push_bind(i64::from(cap.broadcasts)).push("), ");
    }

    fn push_slots(&self, query: &mut QueryBuilder<Postgres>) {
        match self.mode {
            Mode::PrioritySingle => {
                self.push_first(query, "channel", "channel_0", |place| {
                    self.legs
                        .get(place)
                        .map_or_else(String::new, |leg| literal(leg.channel))
                });
                self.push_first(query, "bigint", "address_0", |place| format!("a{place}.id"));
                self.push_first(query, "bigint", "twin_0", |place| format!("a{place}.twin_of"));
            }
            Mode::AppPlusOne => {
                for (place, leg) in self.legs.iter().enumerate() {
                    let usable = self.usable(place);
                    let channel = literal(leg.channel);
                    query.push(format_args!(
                        ", case when {usable} then {channel} end as channel_{place}
                         , case when {usable} then a{place}.id end as address_{place}
                         , case when {usable} then a{place}.twin_of end as twin_{place}"
                    ));
                }
            }
        }
    }

    fn push_first(&self, query: &mut QueryBuilder<Postgres>, kind: &str, name: &str, value: impl Fn(usize) -> String) {
        query.push(", case");
        for place in 0..self.legs.len() {
            query.push(format_args!(" when {} then {}", self.usable(place), value(place)));
        }
        if self.legs.is_empty() {
            query.push(" when false then null");
        }
        query.push(format_args!(" else null::{kind} end as {name}"));
    }

    /// The reason that would stand if this customer got nothing. Null where they get something for certain: the
    /// first reachable address, which is a slot in both modes, is not shared.
    fn push_reason(&self, query: &mut QueryBuilder<Postgres>) {
        let any = |condition: &dyn Fn(usize) -> String| {
            let all: Vec<String> = (0..self.legs.len()).map(condition).collect();
            if all.is_empty() {
                "false".to_owned()
            } else {
                all.join(" or ")
            }
        };
        let certain = (0..self.legs.len()).fold("case".to_owned(), |case, place| {
            format!("{case} when {} then a{place}.twin_of is null", self.usable(place))
        });
        let certain = if self.legs.is_empty() {
            "false".to_owned()
        } else {
            format!("{certain} end")
        };
        let opted_out = any(&|place| format!("a{place}.state = 'opted_out'"));
        let suppressed = any(&|place| format!("a{place}.state = 'suppressed'"));
        let usable = any(&|place| self.usable(place));
        let had_enough = if self.cap.is_some() {
            let open = any(&|place| self.open(place));
            format!("when k.customer_id is not null and ({open}) then 'frequency_cap' ")
        } else {
            String::new()
        };
        let present = any(&|place| format!("a{place}.state = 'active'"));
        query.push(format_args!(
            ", case when {certain} then null
                    when c.opted_out or {opted_out} then 'opted_out'
                    when {suppressed} then 'suppressed'
                    {had_enough}when {usable} then 'same_address'
                    when {present} then 'window_closed'
                    else 'no_address' end as reason"
        ));
    }

    fn usable(&self, place: usize) -> String {
        let open = self.open(place);
        if self.cap.is_some() {
            format!("({open} and k.customer_id is null)")
        } else {
            open
        }
    }

    /// Usable but for the cap.
    fn open(&self, place: usize) -> String {
        let windowed = self.legs.get(place).filter(|leg| !leg.windowless);
        let window = windowed.and_then(|leg| window_hours(leg.channel));
        let window = window.map_or_else(String::new, |hours| {
            format!(" and a{place}.last_inbound_at > now() - interval '{hours} hours'")
        });
        format!("(a{place}.state = 'active' and not c.opted_out{window})")
    }
}

/// The channel as SQL; the names are our own.
fn literal(channel: Channel) -> String {
    format!("'{channel}'::channel")
}

fn push_range(query: &mut QueryBuilder<Postgres>, column: &str, part: Part) {
    if let Part::Chunk { after, upto, .. } = part {
        query.push(format_args!(" and {column} > ")).push_bind(after);
        query.push(format_args!(" and {column} <= ")).push_bind(upto);
    }
}

/// Who loses a slot to a twin: everybody of the group but the lowest id, and everybody when an earlier chunk gave the
/// address to a member. That is looked up in two ways, because a group can come into being between two chunks: by the
/// group's name, and by its members' own deliveries.
fn push_lost(query: &mut QueryBuilder<Postgres>, slot: usize, part: Part) {
    query.push(format_args!(
        ", lost_{slot} as materialized (
            select b.customer_id
              from (select channel_{slot} as channel, twin_{slot} as twin_of, min(customer_id) as first
                      from base where twin_{slot} is not null group by 1, 2 offset 0) g"
    ));
    if let Part::Chunk { broadcast, after, .. } = part {
        // Scalar look-ups, because `exists` may be turned into a hash of the broadcast's whole delivery table.
        query.push(
            " cross join lateral (select coalesce(
                (select true from delivery d
                  where d.twin_of = g.twin_of and d.channel = g.channel and d.broadcast_id = ",
        );
        query.push_bind(broadcast.0);
        query.push(
            " limit 1),
                (select true from address o
                  where o.twin_of = g.twin_of and o.customer_id <= ",
        );
        // Nested rather than joined: a join against a table without statistics reads the whole channel.
        query.push_bind(after).push(
            " and (select true from delivery d where d.customer_id = o.customer_id and d.channel = g.channel
                      and d.address_id = o.id and d.broadcast_id = ",
        );
        query.push_bind(broadcast.0);
        query.push(") limit 1), false) as gone) e");
    } else {
        query.push(" cross join lateral (select false as gone) e");
    }
    query.push(format_args!(
        " join base b on b.channel_{slot} = g.channel and b.twin_{slot} = g.twin_of
             where e.gone or b.customer_id > g.first)"
    ));
}
