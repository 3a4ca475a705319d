//! What persons do that providers tell of: webhooks of LINE and of shop fronts, from the dice. Pure but for the moments.
//! It must never make two events of one key that say different things.

use carillon_sandbox::{
    LINE_BOT_USER_ID, LINE_CHANNEL_SECRET,
    webhooks::{Request, Signer, line, store},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Webhook,
    book::{Event, What},
};
use crate::{accounts::STORE_SECRET, dice::Dice};

/// Whom webhooks come to.
pub(super) struct Shop {
    pub(super) line: Uuid,
    pub(super) app: Uuid,
    /// Addresses of its customers on LINE.
    pub(super) customers: Vec<String>,
}

/// The last event of each provider, to be told once more in another body.
#[derive(Default)]
pub(super) struct Memory {
    line: Option<(Value, Event)>,
    store: Option<(Value, Event)>,
}

/// What is told in one go: a webhook, one with what was taken back, which may overtake it, and sometimes a forged one.
pub(super) fn webhooks(
    dice: &mut Dice,
    shop: &Shop,
    name: &str,
    memory: &mut Memory,
    mut moment: impl FnMut() -> i64,
) -> Vec<Webhook> {
    let of_line = dice.chance(60);
    let sender = if of_line { shop.line } else { shop.app };
    let (mut said, mut taken_back) = (Vec::new(), Vec::new());
    for n in 0..dice.between(1, 5) {
        let one = One {
            sender,
            id: format!("{name}.{n}"),
            at_ms: moment(),
        };
        if of_line {
            let who = who(dice, shop);
            one.on_line(dice, &who, &mut said, &mut taken_back);
        } else {
            one.in_store(dice, &mut said, &mut taken_back);
        }
    }
    let last = if of_line { &mut memory.line } else { &mut memory.store };
    let earlier = last.take().filter(|_| dice.chance(40));
    *last = said.last().cloned();
    said.extend(earlier);
    dice.shuffle(&mut said);
    let mut forged = None;
    if dice.chance(4) {
        let one = One {
            sender,
            id: format!("{name}.forged"),
            at_ms: moment(),
        };
        let said = if of_line {
            one.text_on_line(&who(dice, shop))
        } else {
            one.text_in_store("C-forged", None)
        };
        let mut webhook = of(of_line, sender, vec![said]);
        forge(&mut webhook.request);
        forged = Some(Webhook {
            forged: true,
            ..webhook
        });
    }
    let told = [said, taken_back].into_iter().filter(|events| !events.is_empty());
    told.map(|events| of(of_line, sender, events)).chain(forged).collect()
}

fn of(of_line: bool, sender: Uuid, said: Vec<(Value, Event)>) -> Webhook {
    let (bodies, events): (Vec<Value>, Vec<Event>) = said.into_iter().unzip();
    let (provider, request) = if of_line {
        let signer = Signer::Line(LINE_CHANNEL_SECRET.to_owned());
        ("line", signer.json(&line::body(LINE_BOT_USER_ID, &bodies)))
    } else {
        let signer = Signer::Store(STORE_SECRET.to_owned());
        ("store", signer.json(&store::body(&bodies)))
    };
    Webhook {
        path: format!("/webhooks/{provider}/{sender}"),
        request,
        events,
        forged: false,
    }
}

/// Another letter in the middle of the signature: of base64 the last one may say nothing.
fn forge(request: &mut Request) {
    for (name, value) in &mut request.headers {
        if name.ends_with("signature") {
            let other = if value.as_bytes()[10] == b'0' { "1" } else { "0" };
            value.replace_range(10..11, other);
        }
    }
}

/// A customer, or somebody nobody knew.
fn who(dice: &mut Dice, shop: &Shop) -> String {
    if dice.chance(75) && !shop.customers.is_empty() {
        let at = dice.between(0, shop.customers.len() as u64 - 1);
        return shop.customers[usize::try_from(at).unwrap()].clone();
    }
    // Few, so that one of them writes before it follows, and twice.
    format!("U{:032x}", 0xc4a05_u64 + dice.between(0, 60))
}

/// An event to be made.
struct One {
    sender: Uuid,
    id: String,
    at_ms: i64,
}

impl One {
    fn event(&self, what: What) -> Event {
        Event {
            sender: self.sender,
            key: self.id.clone(),
            what,
        }
    }

    fn message_id(&self) -> String {
        format!("m.{}", self.id)
    }

    fn on_line(self, dice: &mut Dice, who: &str, said: &mut Vec<(Value, Event)>, taken_back: &mut Vec<(Value, Event)>) {
        let (id, at_ms) = (&self.id, self.at_ms);
        let follows = dice.chance(60);
        match dice.between(1, 100) {
            1..=10 => {
                let event = if follows { line::follow } else { line::unfollow }(id, who, at_ms);
                let who = who.to_owned();
                said.push((event, self.event(What::Standing { who, follows, at_ms })));
            }
            11..=18 => {
                said.push(self.text_on_line(who));
                let back = self.back();
                let event = line::unsend(&back.id, who, back.at_ms, &self.message_id());
                taken_back.push((event, self.unsent(&back)));
            }
            _ => said.push(self.text_on_line(who)),
        }
    }

    fn in_store(self, dice: &mut Dice, said: &mut Vec<(Value, Event)>, taken_back: &mut Vec<(Value, Event)>) {
        let customer = format!("C-{}", dice.between(1, 80));
        let order = dice.chance(30).then(|| format!("2026-{}", dice.between(1, 9)));
        match dice.between(1, 100) {
            1..=10 => {
                let message_id = self.message_id();
                let event = store::answer(&self.id, &customer, self.at_ms, &message_id, "有現貨");
                said.push((event, self.event(self.message(&customer, "store", None, false))));
            }
            11..=18 => {
                said.push(self.text_in_store(&customer, order.as_deref()));
                let back = self.back();
                let event = store::unsend(&back.id, &customer, back.at_ms, &self.message_id());
                taken_back.push((event, self.unsent(&back)));
            }
            _ => said.push(self.text_in_store(&customer, order.as_deref())),
        }
    }

    fn text_on_line(&self, who: &str) -> (Value, Event) {
        let event = line::text(&self.id, who, self.at_ms, &self.message_id(), "請問有現貨嗎？");
        (event, self.event(self.message(who, "social", None, true)))
    }

    fn text_in_store(&self, customer: &str, order: Option<&str>) -> (Value, Event) {
        let event = store::text(&self.id, customer, self.at_ms, &self.message_id(), "轉帳完成", order);
        let thread = if order.is_some() { "order" } else { "store" };
        (event, self.event(self.message(customer, thread, order, true)))
    }

    fn message(&self, who: &str, thread: &'static str, order: Option<&str>, is_inbound: bool) -> What {
        What::Message {
            who: who.to_owned(),
            thread,
            order: order.unwrap_or_default().to_owned(),
            message_id: self.message_id(),
            is_inbound,
        }
    }

    /// The event that takes this one's message back.
    fn back(&self) -> Self {
        Self {
            sender: self.sender,
            id: format!("{}.back", self.id),
            at_ms: self.at_ms + 1,
        }
    }

    fn unsent(&self, back: &Self) -> Event {
        back.event(What::Unsent {
            message_id: self.message_id(),
        })
    }
}
