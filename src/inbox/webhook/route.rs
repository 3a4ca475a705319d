//! Which sender each event of a webhook belongs to.
//!
//! Why it exists: Meta knows one address for all pages and numbers of an app, so what comes to one sender's address may be of
//! another's account. It is believed for that sender only where that sender's own secret signed it, too: else whoever owns
//! one app could write into another shop's inbox.

use std::collections::BTreeMap;

use carillon_jobs::SenderId;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::work::Taken;
use crate::{
    channel::webhook::{self, ParseError, Provider, WebhookEvent, WebhookSecrets},
    db::PgPool,
    secret::Secrets,
};

/// Senders whose account is found out in one look.
const UNREAD: i64 = 1_000;
/// Senders of one account that are looked at; there should be one.
const MOST_OF_ONE: i64 = 20;

/// Why a webhook cannot be read, or not believed.
#[derive(Debug, thiserror::Error)]
pub(in crate::inbox) enum RouteError {
    #[error("no provider this release knows")]
    Provider,
    #[error("there is no such sender for the provider")]
    NoSender,
    #[error("the sender's credentials cannot be opened")]
    Sealed,
    #[error("the sender's credentials hold no secret for webhooks")]
    NoSecret,
    #[error("its signature is not the provider's")]
    Unsigned,
    #[error(transparent)]
    Unreadable(#[from] ParseError),
    #[error("{}", crate::db::describe(.0))]
    Database(#[from] sqlx::Error),
}

/// A webhook that was believed and read.
pub(in crate::inbox) struct Read {
    pub(in crate::inbox) provider: Provider,
    sender: SenderId,
    /// Where one address is told of many: those that are this sender's own.
    accounts: Option<Vec<String>>,
    events: Vec<WebhookEvent>,
}

/// Events by their senders.
pub(in crate::inbox) struct Routed {
    senders: BTreeMap<SenderId, Vec<WebhookEvent>>,
    /// Events of accounts that no sender has.
    pub(in crate::inbox) lost: usize,
}

impl Routed {
    /// Batches of at most `most` events of one sender, each to be applied in one transaction.
    pub(in crate::inbox) fn batches(&self, most: usize) -> Vec<(SenderId, &[WebhookEvent])> {
        let of = |(sender, events): (&SenderId, &'_ Vec<WebhookEvent>)| (*sender, events.len());
        debug_assert!(self.senders.iter().map(of).all(|(_, events)| events > 0));
        self.senders
            .iter()
            .flat_map(|(sender, events)| events.chunks(most).map(|events| (*sender, events)))
            .collect()
    }
}

impl Read {
    /// The query without the secret that proved it, where one did just now.
    pub(in crate::inbox) fn without_secret(&self, taken: &Taken) -> Option<String> {
        let proven = !taken.is_verified && self.provider.signature_header().is_none();
        proven.then(|| webhook::without_token(&taken.query))
    }

    /// Whether every event is of the sender it was addressed to.
    pub(in crate::inbox) fn only_of_addressed(&self) -> bool {
        !self.events.iter().any(|event| self.other(event).is_some())
    }

    /// The account an event is of, where that is another one.
    fn other<'a>(&'a self, event: &'a WebhookEvent) -> Option<&'a str> {
        let own = self.accounts.as_ref()?;
        event
            .account
            .as_deref()
            .filter(|account| !own.iter().any(|own| own == account))
    }
}

/// Believes and reads a webhook.
pub(in crate::inbox) fn read(secrets: &Secrets, public_url: &str, taken: &Taken) -> Result<Read, RouteError> {
    let provider: Provider = taken.provider.parse().map_err(|_| RouteError::Provider)?;
    let sender = SenderId(taken.sender_id);
    let found = taken.channel.zip(taken.credentials.as_deref());
    let (_, sealed) = found
        .filter(|(channel, _)| *channel == provider.channel())
        .ok_or(RouteError::NoSender)?;
    let own = open(secrets, sealed, sender, provider)?;
    if !taken.is_verified && !believed(&own, public_url, provider, taken) {
        return Err(RouteError::Unsigned);
    }
    let events = webhook::parse(provider, &taken.body, &taken.query, taken.received_at, Some(&own))?;
    Ok(Read {
        provider,
        sender,
        // Only Meta tells one address of many accounts. Who tells us by an address of their own is who they are.
        accounts: match provider {
            Provider::Messenger | Provider::Whatsapp => Some(own.accounts().to_vec()),
            Provider::Line | Provider::Twilio | Provider::Mitake | Provider::Store | Provider::Email => None,
        },
        events,
    })
}

/// Every event to the sender it was addressed to.
pub(in crate::inbox) fn all_to_addressed(read: Read) -> Routed {
    let some = (!read.events.is_empty()).then_some((read.sender, read.events));
    Routed {
        senders: some.into_iter().collect(),
        lost: 0,
    }
}

/// Each event to the sender of its account.
pub(in crate::inbox) async fn by_account(
    db: &PgPool,
    secrets: &Secrets,
    public_url: &str,
    taken: &Taken,
    read: Read,
) -> Result<Routed, RouteError> {
    let mut known: BTreeMap<String, Option<SenderId>> = BTreeMap::new();
    let others = read.events.iter().filter_map(|event| read.other(event));
    for account in others {
        if !known.contains_key(account) {
            let found = find(db, secrets, read.provider, account).await?;
            // Whoever enters another's page keeps nothing from it: the one whose secret signed is meant.
            let believed = found
                .into_iter()
                .find(|(_, own)| believed(own, public_url, read.provider, taken));
            known.insert(account.to_owned(), believed.map(|(sender, _)| sender));
        }
    }
    let mut routed = Routed {
        senders: BTreeMap::new(),
        lost: 0,
    };
    let (addressed, own) = (read.sender, read.accounts.unwrap_or_default());
    for event in read.events {
        let other = event.account.as_ref().filter(|account| !own.contains(account));
        match other.map_or(Some(addressed), |account| known.get(account).copied().flatten()) {
            Some(sender) => routed.senders.entry(sender).or_default().push(event),
            None => routed.lost += 1,
        }
    }
    Ok(routed)
}

/// The senders that have an account with the provider, the one connected first before the others.
async fn find(
    db: &PgPool,
    secrets: &Secrets,
    provider: Provider,
    account: &str,
) -> Result<Vec<(SenderId, WebhookSecrets)>, RouteError> {
    read_accounts(db, secrets, provider).await?;
    let found: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
        "select id, credentials from sender where channel = $1 and (account = $2 or other_account = $2) order by created_at, id limit $3",
    )
    .bind(provider.channel())
    .bind(account)
    .bind(MOST_OF_ONE)
    .fetch_all(db)
    .await?;
    // Other credentials make a sender unread again (a trigger): the account is that of these.
    let own = found.into_iter().filter_map(|(id, sealed)| {
        let own = open(secrets, &sealed, SenderId(id), provider).ok()?;
        own.accounts()
            .iter()
            .any(|own| own == account)
            .then_some((SenderId(id), own))
    });
    Ok(own.collect())
}

/// Notes the accounts of senders that were connected since the last look: they stand in their sealed credentials, where no
/// index finds them.
async fn read_accounts(db: &PgPool, secrets: &Secrets, provider: Provider) -> Result<(), RouteError> {
    let unread: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
        "select id, credentials from sender where channel = $1 and (account is null or other_account is null) limit $2",
    )
    .bind(provider.channel())
    .bind(UNREAD)
    .fetch_all(db)
    .await?;
    let (mut ids, mut accounts, mut others, mut of) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, sealed) in unread {
        let own = open(secrets, &sealed, SenderId(id), provider).ok();
        ids.push(id);
        // Nothing to be found: noted as well, or it would be opened again each time.
        let mut own = own.iter().flat_map(|own| own.accounts().iter().cloned());
        accounts.push(own.next().unwrap_or_default());
        others.push(own.next().unwrap_or_default());
        of.push(sealed);
    }
    if !ids.is_empty() {
        sqlx::query(
            // Not of credentials that were changed meanwhile: they are unread still.
            "update sender s set account = n.account, other_account = n.other
               from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) as n(id, account, other, credentials)
              where s.id = n.id and (s.account is null or s.other_account is null) and s.credentials = n.credentials",
        )
        .bind(ids)
        .bind(accounts)
        .bind(others)
        .bind(of)
        .execute(db)
        .await?;
    }
    Ok(())
}

fn open(secrets: &Secrets, sealed: &[u8], sender: SenderId, provider: Provider) -> Result<WebhookSecrets, RouteError> {
    let opened = secrets.open(sealed, sender.0).map_err(|_| RouteError::Sealed)?;
    std::str::from_utf8(&opened)
        .ok()
        .and_then(|json| WebhookSecrets::parse(provider, json).ok())
        .ok_or(RouteError::NoSecret)
}

/// Whether the bytes are signed with a sender's own secret.
fn believed(own: &WebhookSecrets, public_url: &str, provider: Provider, taken: &Taken) -> bool {
    let mut headers = HeaderMap::new();
    for (name, value) in &taken.headers.0 {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
        if let (Ok(name), Some(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    let url = public_address(public_url, provider, SenderId(taken.sender_id));
    webhook::verify(provider, own, &headers, &taken.body, &url, &taken.query).is_ok()
}

/// Where a provider was told to send webhooks of a sender, without a query.
#[must_use]
pub fn public_address(public_url: &str, provider: Provider, sender: SenderId) -> String {
    format!("{}/webhooks/{provider}/{sender}", public_url.trim_end_matches('/'))
}
