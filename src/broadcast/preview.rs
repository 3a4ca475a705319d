//! What a broadcast shows on each of its channels, to three customers.
//!
//! Why it exists: before anything leaves a merchant sees every channel as customers will: one of them, the one with the longest
//! name, one without a name. The messages come from the code that sends (`channel::Template`) and are then taken apart
//! (`channel::Reading`), so a preview cannot differ from what arrives.
//!
//! - `person`: for whom
//! - `notice`: what a merchant should know of a message (pure)
//!
//! It must never write anything, ask a provider, or hold an address or a secret: a mail's link that unsubscribes is one
//! that works for nobody.

mod notice;
mod person;

use carillon_jobs::{BroadcastId, CustomerId, SenderId};
use serde::Serialize;
use sqlx::types::Uuid;

pub use self::person::{Person, Who};
pub(super) use self::person::{longest, pick};

use super::{
    audience::Audience,
    config::BroadcastConfig,
    create::{self, CreateError, NewBroadcast},
    problem::Problems,
    routing_sql::Route,
    stored::{self, Chosen, Stored},
};
use crate::{
    channel::{
        Alphabet, Channel, Content, Letterhead, Reading, Recipient, Rendered, Segments, Sender, Template, delivery_key,
    },
    db::{self, PgConnection, PgPool},
    secret::Secrets,
};

/// What previews are made with, beside the database.
#[derive(Clone, Copy)]
pub struct PreviewSetup<'a> {
    /// Section `[broadcast]`.
    pub config: &'a BroadcastConfig,
    /// Opens senders' credentials: whose name a mail bears, by which template a number sends.
    pub secrets: &'a Secrets,
    /// Where `carillon web` is reached from outside.
    pub public_url: &'a str,
}

/// Every channel of a broadcast. Names and texts are personal: never for logs.
#[derive(Clone, Serialize)]
pub struct Preview {
    /// The broadcast; none: it is not stored.
    pub broadcast: Option<BroadcastId>,
    /// What the merchant calls it.
    pub name: String,
    /// For whom: a sample, the longest name, no name.
    pub people: Vec<Person>,
    /// Every chosen channel, in the broadcast's order.
    pub channels: Vec<ChannelPreview>,
}

/// One channel.
#[derive(Clone, Serialize)]
pub struct ChannelPreview {
    /// The channel.
    pub channel: Channel,
    /// One message for each of the preview's people, in their order; none where the sender cannot be used.
    pub messages: Vec<MessagePreview>,
    /// What holds for every message of the channel.
    pub warnings: Vec<String>,
}

/// One message.
#[derive(Clone, Serialize)]
pub struct MessagePreview {
    /// For which of the preview's people.
    pub who: Who,
    /// What the customer reads.
    #[serde(flatten)]
    pub reading: Reading,
    /// What a text message takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sms: Option<SmsPreview>,
    /// What holds for this customer.
    pub warnings: Vec<String>,
    /// The part of the provider's request that is the message, as it is sent: members of a JSON object without its braces, a mail from
    /// its `From` on, the text of a text message.
    pub request: String,
}

/// What a text message takes.
#[derive(Clone, Serialize)]
pub struct SmsPreview {
    /// Parts it is sent in; carriers charge each.
    pub segments: usize,
    /// How it is written.
    pub alphabet: Alphabet,
    /// Characters that its last part still takes, in units of that alphabet.
    pub characters_left: usize,
    /// What it begins with.
    pub prefix: String,
}

/// A channel's sender, as far as messages depend on it.
#[derive(sqlx::FromRow)]
struct Account {
    id: Uuid,
    credentials: Vec<u8>,
}

/// Previews a broadcast that nobody stored.
///
/// # Errors
/// Everything wrong with it at once, as when it is created.
pub async fn preview_new(pool: &PgPool, setup: PreviewSetup<'_>, new: &NewBroadcast) -> Result<Preview, CreateError> {
    let mut conn = db::begin(pool).await?;
    let checked = create::check(&mut conn, setup.config, new).await?;
    preview(&mut conn, setup, None, &checked.stored).await
}

/// Previews a stored broadcast, whatever its state.
///
/// # Errors
/// `broadcast_not_found`, or what is wrong with its content or audience.
pub async fn preview_stored(
    pool: &PgPool,
    setup: PreviewSetup<'_>,
    broadcast: BroadcastId,
) -> Result<Preview, CreateError> {
    let mut conn = db::begin(pool).await?;
    let stored = stored::read(&mut conn, broadcast)
        .await?
        .ok_or_else(|| create::not_found(broadcast))?;
    preview(&mut conn, setup, Some(broadcast), &stored).await
}

async fn preview(
    conn: &mut PgConnection,
    setup: PreviewSetup<'_>,
    broadcast: Option<BroadcastId>,
    stored: &Stored,
) -> Result<Preview, CreateError> {
    let content = Content::parse(&stored.content).map_err(|invalid| {
        let mut problems = Problems(Vec::new());
        problems.add_content(&invalid);
        problems
    })?;
    let people = pick(conn, &members(stored)?, &content).await?;
    let shop_name: String = sqlx::query_scalar("select name from shop where id = $1")
        .bind(stored.shop.0)
        .fetch_one(&mut *conn)
        .await?;
    let ids: Vec<Uuid> = stored.chosen.iter().map(|one| one.sender_id).collect();
    let accounts: Vec<Account> = sqlx::query_as("select id, credentials from sender where id = any ($1)")
        .bind(ids)
        .fetch_all(conn)
        .await?;
    let press = Press {
        setup,
        stored,
        content: &content,
        shop_name: &shop_name,
        broadcast: broadcast.unwrap_or(BroadcastId(Uuid::nil())),
    };
    let channel = |one: &Chosen| {
        let account = accounts.iter().find(|account| account.id == one.sender_id);
        press.channel(one, account, &people)
    };
    Ok(Preview {
        broadcast,
        name: stored.name.clone(),
        channels: stored.chosen.iter().map(channel).collect(),
        people,
    })
}

/// The audience as planning takes it, without its channels.
fn members(stored: &Stored) -> Result<Route, CreateError> {
    Ok(Route {
        shop: stored.shop,
        mode: stored.mode,
        legs: Vec::new(),
        audience: Audience::parse(&stored.audience)?,
        testers: stored.testers,
        cap: None,
    })
}

/// One broadcast, ready to be shown.
struct Press<'a> {
    setup: PreviewSetup<'a>,
    stored: &'a Stored,
    content: &'a Content,
    shop_name: &'a str,
    broadcast: BroadcastId,
}

impl Press<'_> {
    fn channel(&self, chosen: &Chosen, account: Option<&Account>, people: &[Person]) -> ChannelPreview {
        let channel = chosen.channel;
        let mut warnings = notice::of_channel(self.content, channel);
        if chosen.sender_state != "connected" {
            warnings.push(format!("the sender of {channel} is {}", chosen.sender_state));
        }
        let Some(sender) = account.and_then(|account| self.sender(chosen, account)) else {
            warnings.push(format!(
                "the credentials of the sender of {channel} cannot be used: connect it again"
            ));
            return ChannelPreview {
                channel,
                messages: Vec::new(),
                warnings,
            };
        };
        let template = Template::compile(
            self.content,
            &Letterhead {
                broadcast: self.broadcast,
                shop: self.stored.shop,
                shop_name: self.shop_name,
                shop_url: Some(&self.stored.shop_url),
                sms_sender_name: &self.setup.config.sms_sender_name,
                sender: &sender,
            },
        );
        let messages: Vec<MessagePreview> = people
            .iter()
            .map(|person| self.message(&template, channel, person))
            .collect();
        if let Some(name) = messages.first().and_then(|message| message.reading.template.as_ref()) {
            warnings.push(format!(
                "sent by the approved template `{name}`: its own words are kept by WhatsApp, shown is what fills its blanks"
            ));
        }
        ChannelPreview {
            channel,
            messages,
            warnings,
        }
    }

    fn sender(&self, chosen: &Chosen, account: &Account) -> Option<Sender> {
        let plain = self.setup.secrets.open(&account.credentials, account.id).ok()?;
        let json = String::from_utf8(plain).ok()?;
        Sender::parse(SenderId(account.id), chosen.channel, &json).ok()
    }

    fn message(&self, template: &Template, channel: Channel, person: &Person) -> MessagePreview {
        // A link that really unsubscribes would be a key to somebody's address.
        let link = format!("{}/u/preview", self.setup.public_url.trim_end_matches('/'));
        let customer = person.customer.unwrap_or(CustomerId(0));
        let render = |first: &str, last: &str| -> Rendered {
            template.render(&Recipient {
                first_name: Some(first),
                last_name: Some(last),
                customer,
                key: delivery_key(self.broadcast, channel, customer),
                unsubscribe_url: &link,
            })
        };
        let rendered = render(&person.first_name, &person.last_name);
        let mut warnings = notice::of_names(self.content.fallbacks(), person, render);
        let reading = rendered.reading();
        let sms = (channel == Channel::Sms).then(|| {
            let taken = Segments::of(&reading.text);
            warnings.extend(notice::of_segments(taken));
            SmsPreview {
                segments: taken.parts,
                alphabet: taken.alphabet,
                characters_left: taken.left,
                prefix: self.setup.config.sms_sender_name.clone(),
            }
        });
        MessagePreview {
            who: person.who,
            reading,
            sms,
            warnings,
            request: String::from_utf8_lossy(rendered.body()).into_owned(),
        }
    }
}
