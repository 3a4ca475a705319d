//! What a worker must know to send for a lane: the message compiled, the sender opened, the limits that apply.
//!
//! Loaded once per turn, so that a changed credential or rate takes effect within seconds and nothing is read per message.

use std::{fmt::Write as _, time::Duration};

use carillon_jobs::{AddressId, CustomerId, ShopId};
use sqlx::types::{Json, Uuid};

use crate::{
    channel::{
        Channel, Content, ErrorClass, KeyMemory, Letterhead, MULTICAST_LIMIT, Recipient, Refusal, Rendered, Sender,
        Template,
    },
    delivery::{Delivery, DeliveryError, pace::Pace, share::Share, store::TakenLane},
    limit::{Call, LimitKey},
};

/// What is read from Postgres for it.
#[derive(sqlx::FromRow)]
struct Row {
    content: Json<serde_json::Value>,
    shop_id: Uuid,
    shop_name: String,
    shop_url: String,
    credentials: Vec<u8>,
    rate_per_sec: Option<f64>,
    /// Since its credentials were last changed, if they ever were.
    credentials_age_secs: Option<f64>,
    sleep_secs: Option<f64>,
    /// The name a text message sender is registered by.
    approved_name: Option<String>,
}

/// Ready to send.
pub(super) struct Briefing {
    pub(super) sender: Sender,
    /// For how long nobody on the lane may be disturbed, by its shop's quiet hours; none: it may work.
    pub(super) sleeps: Option<Duration>,
    /// What the windows of this turn count against.
    pub(super) limit: LimitKey,
    /// The limit of single requests, where the windows are multicasts.
    pub(super) single_limit: LimitKey,
    template: Template,
    /// The one message everybody gets, where the channel can send it to many at once.
    same_for_all: Option<Rendered>,
    in_flight: usize,
    ahead: Duration,
    senders: usize,
    slice_size: u32,
    share: Share,
    key_life: Duration,
    unsubscribe: Option<Unsubscribe>,
}

/// Makes the link that unsubscribes one address.
struct Unsubscribe {
    base: String,
    secrets: std::sync::Arc<crate::secret::Secrets>,
    broadcast: carillon_jobs::BroadcastId,
}

impl Briefing {
    /// Loads it. `DeliveryError::Sender`: the account cannot be used until a person mends it.
    pub(super) async fn load(delivery: &Delivery, lane: &TakenLane, share: Share) -> Result<Self, DeliveryError> {
        let row: Row = sqlx::query_as(
            "select b.content, sh.id as shop_id, sh.name as shop_name, coalesce(b.shop_url, sh.url) as shop_url, s.credentials, s.rate_per_sec,
                    (select extract(epoch from now() - c.changed_at)::float8 from credentials_change c where c.sender_id = s.id)
                        as credentials_age_secs,
                    extract(epoch from lane_sleeps_until(b.id, s.id) - now())::double precision as sleep_secs,
                    (select i.approved_name from sms_identity i where i.sender_id = s.id) as approved_name
               from broadcast b join shop sh on sh.id = b.shop_id join sender s on s.id = $2
              where b.id = $1",
        )
        .bind(lane.broadcast.0)
        .bind(lane.sender.0)
        .fetch_one(&delivery.db)
        .await?;
        if lane.channel == Channel::Sms {
            check_identity(row.approved_name.as_deref(), &delivery.channel_config.sms.sender_name)?;
        }
        let content: Content =
            Content::parse(&row.content.0).map_err(|error| DeliveryError::Content(error.to_string()))?;
        let credentials = delivery
            .secrets
            .open(&row.credentials, lane.sender.0)
            .map_err(|error| DeliveryError::Sender(format!("credentials: {error}")))?;
        let credentials =
            String::from_utf8(credentials).map_err(|_| DeliveryError::Sender("credentials: not a text".to_owned()))?;
        let sender = Sender::parse(lane.sender, lane.channel, &credentials)
            .map_err(|error| DeliveryError::Sender(format!("credentials: {error}")))?;
        let template = Template::compile(
            &content,
            &Letterhead {
                broadcast: lane.broadcast,
                shop: ShopId(row.shop_id),
                shop_name: &row.shop_name,
                shop_url: Some(&row.shop_url),
                sms_sender_name: &delivery.channel_config.sms.sender_name,
                sender: &sender,
            },
        );
        let same_for_all = template.same_for_all();
        let key = |call| LimitKey {
            shop: lane.shared.then_some(lane.shop),
            ..delivery.limit_key(lane.sender, lane.channel, call, row.rate_per_sec)
        };
        let key_life = key_life(delivery, &sender, row.credentials_age_secs);
        let channels = &delivery.channel_config;
        let in_flight = match lane.channel {
            Channel::Line => channels.line.in_flight,
            Channel::App => channels.app.in_flight,
            Channel::Email => channels.email.in_flight,
            Channel::Messenger => channels.messenger.in_flight,
            Channel::Whatsapp => channels.whatsapp.in_flight,
            Channel::Sms => channels.sms.in_flight,
        };
        Ok(Self {
            sleeps: row.sleep_secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok()),
            limit: key(if same_for_all.is_some() {
                Call::Multicast
            } else {
                Call::Single
            }),
            single_limit: key(Call::Single),
            sender,
            template,
            same_for_all,
            in_flight,
            ahead: delivery.config.ahead(),
            senders: match lane.channel {
                // Each slice may use all of them: while one is settled the other has them to itself. More of one slice would only
                // wait for a connection, where nobody can call them back.
                Channel::Email => channels.email.max_connections,
                _ => in_flight,
            },
            slice_size: delivery.slice_size,
            share,
            key_life,
            unsubscribe: (lane.channel == Channel::Email).then(|| Unsubscribe {
                base: format!("{}/u/", delivery.public_url.trim_end_matches('/')),
                secrets: delivery.secrets.clone(),
                broadcast: lane.broadcast,
            }),
        })
    }

    /// Whether one request goes to all members of a window.
    pub(super) fn multicast(&self) -> bool {
        self.same_for_all.is_some()
    }

    /// Whether the provider honours our keys.
    pub(super) fn keyed(&self) -> bool {
        self.sender.key_memory().is_some()
    }

    /// How long the provider remembers a key, less a margin; zero if it has none.
    pub(super) fn key_life(&self) -> Duration {
        self.key_life
    }

    /// Whether a repeat's key stands for a body with the customer's name in it.
    pub(super) fn same_body(&self) -> bool {
        self.keyed() && !self.multicast()
    }

    /// Members begun together. Without keys it is what a crash may leave unknown, so no more than their pace asks for.
    pub(super) fn window(&self, probing: bool, pace: Pace) -> u32 {
        if probing {
            return 1;
        }
        let alone = if self.keyed() {
            self.slice_size.min(MULTICAST_LIMIT.into())
        } else {
            pace.window(self.in_flight, self.ahead)
        };
        self.share.window(alone, self.multicast())
    }

    /// Members of a window that may be out at once.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many of them are sent to at the same moment; the others wait for their turn.
    pub(super) fn senders(&self) -> usize {
        self.senders
    }

    /// The message for one member. `to`: the address, whose it is, and the delivery's key; none for the message to all.
    pub(super) fn render(
        &self,
        first: &str,
        last: &str,
        to: Option<(AddressId, CustomerId, Uuid)>,
    ) -> Result<Rendered, Refusal> {
        let Some((address, customer, key)) = to else {
            return self
                .same_for_all
                .clone()
                .ok_or_else(|| Refusal::new(ErrorClass::Content, "not_the_same_for_all"));
        };
        let mut unsubscribe_url = String::new();
        if let Some(link) = &self.unsubscribe {
            // Writing to a String cannot fail.
            let _ = write!(
                unsubscribe_url,
                "{}{}",
                link.base,
                link.secrets.unsubscribe_token(address, link.broadcast)
            );
        }
        Ok(self.template.render(&Recipient {
            first_name: Some(first),
            last_name: Some(last),
            customer,
            key,
            unsubscribe_url: &unsubscribe_url,
        }))
    }
}

/// Whether a text message sender is still who it was when the broadcast was planned: what is registered by one name never leaves under
/// another.
fn check_identity(approved: Option<&str>, begins_with: &str) -> Result<(), DeliveryError> {
    match approved {
        Some(name) if name == begins_with => Ok(()),
        Some(name) => Err(DeliveryError::Sender(format!(
            "identity: {name} is recorded, and messages begin with {begins_with}"
        ))),
        None => Err(DeliveryError::Sender("identity: none is recorded".to_owned())),
    }
}

/// For how long a repeat under the same key is safe. Text messages change hands: what left by one account may not be repeated by
/// another, which would know nothing of it, nor what a turn under the old credentials may still have sent after the change.
fn key_life(delivery: &Delivery, sender: &Sender, credentials_age_secs: Option<f64>) -> Duration {
    let config = &delivery.config;
    match (sender.key_memory(), credentials_age_secs) {
        (None, _) => Duration::ZERO,
        (Some(memory @ KeyMemory::Line), _) | (Some(memory), None) => config.key_life(memory),
        (Some(memory @ KeyMemory::Mitake), Some(age)) => {
            let age = Duration::try_from_secs_f64(age).unwrap_or_default();
            let old_turns = config.lane_budget() + config.lease() * 2;
            // Zero would say that the provider has no keys at all.
            config
                .key_life(memory)
                .min(age.saturating_sub(old_turns))
                .max(Duration::from_millis(1))
        }
    }
}
