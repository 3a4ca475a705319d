//! What providers tell of messages that left: moves deliveries on, gives tokens back, closes addresses.
//!
//! Why it exists: `accepted` is all a send can know. Echoes and receipts say later that a message arrived, was seen or failed,
//! and they alone tell what became of an `unknown`. They come twice, late, out of order, or before the result of their send is
//! written; what comes out is the same: the furthest state counts, and `failed` is the last word. The rules are SQL
//! (`migrations/0021_receipt.sql`), with one lock order for a batch; here events become its arguments, and the inbox asks for both
//! at once.
//!
//! It must never charge a message whose tokens went back, give the same tokens back twice, or move a delivery of another
//! sender than the one the webhook was verified for.

use std::borrow::Cow;

use carillon_jobs::SenderId;
use chrono::{DateTime, Utc};
use sqlx::{
    FromRow, Postgres,
    postgres::PgArguments,
    query::QueryAs,
    types::{Json, Uuid},
};

use crate::{
    channel::{
        DeliveryMark,
        webhook::{Receipt, ReceiptOf, ReceiptState, WebhookEvent, What},
    },
    db::PgPool,
    delivery::{DeliveryState, store::TakenLane, verdict::Ended},
};

/// What came of the receipts of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub struct Applied {
    /// Deliveries that changed.
    pub moved: i64,
    /// Tokens given back.
    pub refunded: i64,
    /// Receipts that said nothing new.
    pub known: i64,
    /// Receipts that match no result yet; [`retry`] tries them again.
    pub waiting: i64,
    /// Receipts of broadcasts that ended more than 30 days ago.
    pub late: i64,
}

/// The one call that applies events: the webhook, whether they are its last, the sender, the events for the inbox, and then
/// what [`Receipts::bind`] binds.
pub(crate) const APPLY: &str = "select held, ns, conversations, unassigned, moved, refunded, known, waiting, late
    from apply_webhook($1, $2, $3, $4, $5, $6, $7, $8, $9::text[]::delivery_state[], $10, $11, $12, $13, $14, $15, $16, $17, $18,
                       $19, $20, $21, $22, $23, $24, $25)";
/// Waiting receipts tried in one transaction.
const RETRY_STEP: i32 = 200;
/// Steps of one [`retry`]: the rest waits for the next one.
const RETRY_STEPS: u32 = 25;
/// Ids and addresses longer than this are nobody's; an index could not hold them.
const TEXT_LIMIT: usize = 200;

/// Applies what events of a sender say of deliveries and addresses, and nothing else of them: they count as told, and no
/// conversation knows of them. The inbox applies both at once.
pub async fn apply(db: &PgPool, sender: SenderId, events: &[WebhookEvent]) -> sqlx::Result<Applied> {
    let receipts = Receipts::of(events);
    let query = sqlx::query_as(APPLY)
        .bind(None::<Uuid>)
        .bind(false)
        .bind(sender.0)
        .bind(Json([(); 0]));
    receipts.bind(query).fetch_one(db).await
}

/// Tries receipts that wait for the result of their send, looks again at what watermarks may have missed, and forgets what is
/// over. Says how many receipts it tried. Anybody may call it, any number at once.
pub async fn retry(db: &PgPool) -> sqlx::Result<u64> {
    let mut tried = 0;
    for _ in 0..RETRY_STEPS {
        let step: i64 = sqlx::query_scalar("select retry_receipts($1)")
            .bind(RETRY_STEP)
            .fetch_one(db)
            .await?;
        tried += u64::try_from(step).unwrap_or(0);
        if step < i64::from(RETRY_STEP) {
            break;
        }
    }
    sqlx::query("select recheck_watermarks($1), forget_receipts($1)")
        .bind(RETRY_STEP)
        .execute(db)
        .await?;
    Ok(tried)
}

/// The results of a window, with `accepted` for those `unknown` ones whose receipt came first and proves it.
pub(super) async fn with_proof<'a>(
    db: &PgPool,
    lane: &TakenLane,
    ended: &'a [Ended],
) -> sqlx::Result<Cow<'a, [Ended]>> {
    let is_unknown = |one: &Ended| one.state == DeliveryState::Unknown;
    let unknown: Vec<i64> = ended
        .iter()
        .filter(|one| is_unknown(one))
        .map(|one| one.customer)
        .collect();
    if unknown.is_empty() {
        return Ok(Cow::Borrowed(ended));
    }
    let proven: Vec<i64> = sqlx::query_scalar("select proven_customers($1, $2, $3)")
        .bind(lane.broadcast.0)
        .bind(lane.channel)
        .bind(unknown)
        .fetch_one(db)
        .await?;
    let mut ended = ended.to_vec();
    for one in ended
        .iter_mut()
        .filter(|one| is_unknown(one) && proven.contains(&one.customer))
    {
        one.state = DeliveryState::Accepted;
        one.reason = None;
        one.code = None;
    }
    Ok(Cow::Owned(ended))
}

/// Receipts of one message each, as parallel lists.
#[derive(Default)]
struct Told<'a> {
    keys: Vec<&'a str>,
    broadcasts: Vec<Option<Uuid>>,
    customers: Vec<Option<i64>>,
    provider_ids: Vec<Option<&'a str>>,
    outcomes: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    codes: Vec<Option<&'a str>>,
    closes: Vec<bool>,
    ats: Vec<DateTime<Utc>>,
}

/// What is said of every message to an address up to a time.
#[derive(Default)]
struct UpTo<'a> {
    addresses: Vec<&'a str>,
    read: Vec<bool>,
    ats: Vec<DateTime<Utc>>,
}

/// What persons said of hearing from the sender.
#[derive(Default)]
struct Said<'a> {
    addresses: Vec<&'a str>,
    follows: Vec<Option<bool>>,
    wants: Vec<Option<bool>>,
    ats: Vec<DateTime<Utc>>,
}

/// Addresses that can never be reached, by a receipt that names no message.
#[derive(Default)]
struct Dead<'a> {
    addresses: Vec<&'a str>,
    codes: Vec<&'a str>,
}

/// Mails of ours that their reader called spam.
#[derive(Default)]
struct Complained {
    broadcasts: Vec<Uuid>,
    customers: Vec<i64>,
}

/// What events say of deliveries and addresses, in the form the SQL takes.
#[derive(Default)]
pub(crate) struct Receipts<'a> {
    told: Told<'a>,
    up_to: UpTo<'a>,
    said: Said<'a>,
    dead: Dead<'a>,
    complained: Complained,
    /// Every address the events speak of: it may have been written after its person said something.
    addresses: Vec<&'a str>,
}

impl<'a> Receipts<'a> {
    /// Events about other things are passed over.
    pub(crate) fn of(events: &'a [WebhookEvent]) -> Self {
        let mut batch = Self::default();
        for event in events {
            let from = event.from.as_deref().filter(|from| storable(from));
            batch.addresses.extend(from);
            match (&event.what, from) {
                (What::Receipt(receipt), from) => batch.receipt(event, receipt, from),
                (What::Echo(echo), _) => {
                    if echo.mark.is_some() {
                        batch.tell(event, echo.mark, Some(&echo.message_id), &ReceiptState::Sent);
                    }
                }
                (What::Complained { mark }, _) => {
                    // Who complains has it.
                    batch.tell(event, Some(*mark), None, &ReceiptState::Delivered);
                    batch.complained.broadcasts.push(mark.broadcast.0);
                    batch.complained.customers.push(mark.customer.0);
                }
                (What::Followed, Some(from)) => batch.say(event, from, Some(true), None),
                (What::Unfollowed, Some(from)) => batch.say(event, from, Some(false), None),
                (What::Consent { wanted }, Some(from)) => batch.say(event, from, None, Some(*wanted)),
                (What::Followed | What::Unfollowed | What::Consent { .. }, None)
                | (
                    What::Message(_)
                    | What::Edited { .. }
                    | What::Unsent { .. }
                    | What::Seen { .. }
                    | What::Postback(_)
                    | What::Referred(_)
                    | What::Unknown(_),
                    _,
                ) => {}
            }
        }
        batch.addresses.sort_unstable();
        batch.addresses.dedup();
        batch
    }

    /// The last arguments of `apply_webhook`, in its order.
    pub(crate) fn bind<'q, O>(
        &'q self,
        query: QueryAs<'q, Postgres, O, PgArguments>,
    ) -> QueryAs<'q, Postgres, O, PgArguments> {
        query
            .bind(&self.told.keys)
            .bind(&self.told.broadcasts)
            .bind(&self.told.customers)
            .bind(&self.told.provider_ids)
            .bind(&self.told.outcomes)
            .bind(&self.told.reasons)
            .bind(&self.told.codes)
            .bind(&self.told.closes)
            .bind(&self.told.ats)
            .bind(&self.up_to.addresses)
            .bind(&self.up_to.read)
            .bind(&self.up_to.ats)
            .bind(&self.said.addresses)
            .bind(&self.said.follows)
            .bind(&self.said.wants)
            .bind(&self.said.ats)
            .bind(&self.addresses)
            .bind(&self.dead.addresses)
            .bind(&self.dead.codes)
            .bind(&self.complained.broadcasts)
            .bind(&self.complained.customers)
    }

    fn receipt(&mut self, event: &'a WebhookEvent, receipt: &'a Receipt, from: Option<&'a str>) {
        match (&receipt.of, from, &receipt.state) {
            (
                ReceiptOf::Message {
                    provider_id: None,
                    mark: None,
                },
                Some(from),
                ReceiptState::Failed {
                    code,
                    closes_address: true,
                    ..
                },
            ) => {
                self.dead.addresses.push(from);
                self.dead.codes.push(code);
            }
            (ReceiptOf::Message { provider_id, mark }, _, state) => {
                self.tell(event, *mark, provider_id.as_deref(), state);
            }
            (ReceiptOf::UpTo(up_to), Some(from), ReceiptState::Delivered | ReceiptState::Read) => {
                self.up_to.addresses.push(from);
                self.up_to.read.push(receipt.state == ReceiptState::Read);
                self.up_to.ats.push(storable_time(*up_to));
            }
            // That messages of a time were sent is no news, and a failure is of one message.
            (ReceiptOf::UpTo(_), None, _)
            | (ReceiptOf::UpTo(_), Some(_), ReceiptState::Sent | ReceiptState::Failed { .. }) => {}
        }
    }

    fn tell(
        &mut self,
        event: &'a WebhookEvent,
        mark: Option<DeliveryMark>,
        provider_id: Option<&'a str>,
        state: &'a ReceiptState,
    ) {
        let provider_id = provider_id.filter(|id| storable(id));
        if mark.is_none() && provider_id.is_none() {
            return;
        }
        let (outcome, failure) = match state {
            ReceiptState::Sent => (DeliveryState::Accepted, None),
            ReceiptState::Delivered => (DeliveryState::Delivered, None),
            ReceiptState::Read => (DeliveryState::Read, None),
            ReceiptState::Failed {
                class,
                code,
                closes_address,
            } => (DeliveryState::Failed, Some((class, code, *closes_address))),
        };
        let told = &mut self.told;
        told.keys.push(&event.key);
        told.broadcasts.push(mark.map(|mark| mark.broadcast.0));
        told.customers.push(mark.map(|mark| mark.customer.0));
        told.provider_ids.push(provider_id);
        told.outcomes.push(outcome.as_str());
        told.reasons.push(failure.map(|(class, ..)| class.as_str()));
        told.codes
            .push(failure.map(|(_, code, _)| code.as_str()).filter(|code| storable(code)));
        told.closes.push(failure.is_some_and(|(.., closes)| closes));
        told.ats.push(storable_time(event.at));
    }

    fn say(&mut self, event: &'a WebhookEvent, from: &'a str, follows: Option<bool>, wants: Option<bool>) {
        self.said.addresses.push(from);
        self.said.follows.push(follows);
        self.said.wants.push(wants);
        self.said.ats.push(storable_time(event.at));
    }
}

/// Whether Postgres and its indexes can hold it.
fn storable(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_LIMIT && !text.contains('\0')
}

/// A time within what Postgres can hold: a provider's clock may say anything.
fn storable_time(at: DateTime<Utc>) -> DateTime<Utc> {
    const LATEST_SECS: i64 = 253_402_300_799;
    at.clamp(
        DateTime::UNIX_EPOCH,
        DateTime::from_timestamp(LATEST_SECS, 0).unwrap_or(DateTime::UNIX_EPOCH),
    )
}
