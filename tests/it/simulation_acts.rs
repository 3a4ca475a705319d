//! What the shops, their workers and their providers do in the simulation: each act once as SQL and once in the model.

use crate::{
    simulation_broadcasts::{Claim, LEASE_SECS},
    simulation_calendar::Time,
    simulation_model::{Model, Settings},
    simulation_world::state,
};

#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// The end of planning: tokens are set aside.
    Open(usize),
    Cancel(usize),
    /// A worker takes a slice of a lane; or ends one of a broadcast that is over.
    Claim(usize, usize),
    Drain(usize, usize, &'static str),
    /// And tells who got their message.
    Settle(Claim, Vec<(i64, bool)>),
    /// A provider reports that an accepted message failed after all.
    Receipt(usize, usize, i64),
    /// A shop's row is changed; by `change_plan`, or as a frontend would.
    ChangePlan(usize, &'static str),
    Change(usize, Settings),
    /// The job for one shop.
    Refill(usize),
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    texts.join(",")
}

fn told(claim: Option<&Claim>) -> String {
    claim.map_or("none".to_owned(), |claim| {
        format!(
            "{} {} {} {}",
            claim.slice,
            claim.epoch,
            claim.intent,
            list(&claim.flying)
        )
    })
}

impl Act {
    /// The statements of the act's transaction. The last one's answer is the act's.
    pub(crate) fn statements(&self, model: &Model) -> Vec<String> {
        let lane = |b: &usize, lane: &usize| {
            let broadcast = &model.broadcasts[*b];
            (broadcast.id, broadcast.lanes[*lane].channel)
        };
        let one = match self {
            Self::Open(b) => format!("select open_broadcast('{}', 1)", model.broadcasts[*b].id),
            Self::Cancel(b) => format!("select cancel_broadcast('{}')::text", model.broadcasts[*b].id),
            Self::Claim(b, l) => {
                let (id, channel) = lane(b, l);
                format!(
                    "select coalesce((select concat_ws(' ', s.slice_no, s.epoch, s.intent_no, array_to_string(s.in_flight, ','))
                       from lane l, claim_slice('{id}', '{channel}', l.epoch, 1000, {LEASE_SECS}, 1e9, true) s
                      where l.broadcast_id = '{id}' and l.channel = '{channel}'), 'none')"
                )
            }
            Self::Drain(b, l, outcome) => {
                let (id, channel) = lane(b, l);
                format!("select drain_slice('{id}', '{channel}', '{outcome}')::text")
            }
            Self::Settle(claim, results) => Self::settle(model, claim, results),
            Self::Receipt(b, l, who) => return Self::receipt(model, *b, *l, *who),
            Self::ChangePlan(s, plan) => format!("select change_plan('{}', '{plan}')::text", model.shops[*s].id),
            Self::Change(s, to) => format!(
                "with u as (update shop set plan = '{}', state = '{}', anchor_day = {}, time_zone = '{}' where id = '{}' returning 1)
                 select count(*)::text from u",
                to.plan,
                state(to.active),
                to.anchor,
                to.zone,
                model.shops[*s].id
            ),
            Self::Refill(s) => format!("select refill_shop('{}')", model.shops[*s].id),
        };
        vec![one]
    }

    fn settle(model: &Model, claim: &Claim, results: &[(i64, bool)]) -> String {
        let b = &model.broadcasts[claim.broadcast];
        let rest = claim
            .flying
            .iter()
            .filter(|who| results.iter().all(|(done, _)| done != *who));
        format!(
            "select case r when 'stale' then r else 'written' end from settle_window('{}', '{}', {}, {}, '{{{}}}', '{{{}}}', '{{{}}}',
                 array_fill(null::text, array[{n}]), array_fill(null::text, array[{n}]), null, {}, '{{}}', '{{{}}}', 0, {LEASE_SECS}) r",
            b.id,
            b.lanes[claim.lane].channel,
            claim.slice,
            claim.epoch,
            list(results.iter().map(|(who, _)| who)),
            list(results.iter().map(|(_, ok)| if *ok { "accepted" } else { "failed" })),
            list(results.iter().map(|(_, ok)| if *ok { "null" } else { "recipient" })),
            claim.intent,
            list(rest),
            n = results.len(),
        )
    }

    fn receipt(model: &Model, b: usize, l: usize, who: i64) -> Vec<String> {
        let (id, lane) = (model.broadcasts[b].id, &model.broadcasts[b].lanes[l]);
        let (channel, price) = (lane.channel, lane.price);
        let mark = format!(
            "with u as (update delivery_result set state = 'failed', reason = 'recipient', charged_tokens = 0, changed_at = now()
                         where broadcast_id = '{id}' and channel = '{channel}' and customer_id = {who} and state = 'accepted' returning 1)
             select count(*)::text from u"
        );
        if !lane.accepted.contains(&who) {
            return vec![mark];
        }
        let fewer = format!(
            "update tally set n = n - 1 where broadcast_id = '{id}' and channel = '{channel}' and outcome = 'accepted' returning 'fewer'"
        );
        let more = format!(
            "insert into tally as t values ('{id}', 'send', '{channel}', 'failed', 'recipient', 1)
             on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = t.n + 1 returning 'more'"
        );
        let refund = format!(
            "with u as (select ledger_refund('{id}', '{channel}', {price}, '{id}:{channel}:{who}')) select count(*)::text from u"
        );
        vec![mark, fewer, more, refund]
    }

    /// The same in the model, and what the caller should hear.
    pub(crate) fn apply(&self, model: &mut Model, at: Time) -> String {
        match self {
            Self::Open(b) => model.open(*b, at).to_owned(),
            Self::Cancel(b) => model.cancel(*b).to_string(),
            Self::Claim(b, lane) => told(model.claim(*b, *lane, at).as_ref()),
            Self::Drain(b, lane, _) => model.drain(*b, *lane, at).to_string(),
            Self::Settle(claim, results) => if model.settle(claim, results) {
                "written"
            } else {
                "stale"
            }
            .to_owned(),
            Self::Receipt(b, lane, who) => u8::from(model.receipt(*b, *lane, *who)).to_string(),
            Self::ChangePlan(s, plan) => {
                let shop = &mut model.shops[*s];
                shop.refill(at);
                let (before, is) = (shop.now[0], shop.is.clone());
                shop.change(&Settings { plan, ..is }, at);
                (shop.now[0] - before).to_string()
            }
            Self::Change(s, to) => {
                model.shops[*s].change(to, at);
                "1".to_owned()
            }
            Self::Refill(s) => model.shops[*s].refill(at).to_owned(),
        }
    }
}
