//! Text messages in Taiwan: who sends, and what a message may carry without a person having looked.
//!
//! - this file: what is to be said against a broadcast's text message, looked at before it is planned
//! - `review`: the broadcasts that wait for a person, and what the person decides
//! - `registry`: who a sender is, and what it has registered with the carriers
//!
//! Why it exists: a carrier does not deliver a commercial message from an unknown sender, or one with a link or a number nobody
//! registered, and whoever sends such messages loses the sender. Planning asks here, so nobody who writes rows by SQL gets past it.
//!
//! It must never let a text message be planned whose sender's identity is not recorded, whatever a person has cleared.

mod registry;
mod review;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use carillon_jobs::BroadcastId;
use ring::digest;
use sqlx::types::{Json, Uuid};

pub use registry::{Registration, Registry, RegistryError, identity, register, registration, registries, unregister};
pub use review::{Review, ReviewError, clear, reject, reviews};

use super::{
    config::BroadcastConfig,
    preview,
    routing_sql::Route,
    stored::{self, Stored},
};
use crate::{
    channel::{Channel, Contacts, Content, Registered, Segments, sms_text, sms_text_to},
    db::{self, PgConnection, PgPool},
};

/// What is to be said against a broadcast's text message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Objection {
    /// Of the text and its sender: a decision is about these.
    digest: String,
    /// Such as `link shop.example/sale`; never a customer's data.
    pub(super) findings: Vec<String>,
    /// Whether a person may let it pass. Not a sender nobody knows.
    may_be_cleared: bool,
}

/// A broadcast's text message as it is when nothing is known of a customer, and from which sender.
struct Letter {
    sender: Uuid,
    text: String,
}

/// None: it sends no text messages, or its content cannot be read, which is told elsewhere.
fn letter(config: &BroadcastConfig, stored: &Stored) -> Option<Letter> {
    let sms = stored.chosen.iter().find(|one| one.channel == Channel::Sms)?;
    let content = Content::parse(&stored.content).ok()?;
    Some(Letter {
        sender: sms.sender_id,
        text: sms_text(&content, &config.sms_sender_name, &stored.shop_url),
    })
}

/// Looks at a broadcast's text message; none: there is nothing to object to.
pub(super) async fn objection(
    conn: &mut PgConnection,
    config: &BroadcastConfig,
    stored: &Stored,
) -> Result<Option<Objection>, sqlx::Error> {
    let Some(Letter { sender, text }) = letter(config, stored) else {
        return Ok(None);
    };
    let (name, registered) = known(conn, sender).await?;
    let mut findings = Vec::new();
    let may_be_cleared = match name {
        None => {
            findings.push(format!("identity of sender {sender} is not recorded"));
            false
        }
        Some(name) if config.sms_sender_name != name => {
            findings.push(format!(
                "identity of sender {sender} is {name}, and messages begin with {}",
                config.sms_sender_name
            ));
            false
        }
        Some(_) => true,
    };
    let missing = registered.missing(&Contacts::find(&text));
    findings.extend(missing.links.iter().map(|link| format!("link {link}")));
    findings.extend(missing.phones.iter().map(|phone| format!("phone {phone}")));
    let digest = digest(sender, &text);
    Ok((!findings.is_empty()).then_some(Objection {
        digest,
        findings,
        may_be_cleared,
    }))
}

/// Whether the broadcast has to wait: asks for a person's decision, unless there is one that lets this text pass. The caller has locked
/// the broadcast's row, and commits.
pub(super) async fn must_wait(
    conn: &mut PgConnection,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
    stored: &Stored,
) -> Result<bool, sqlx::Error> {
    let Some(objection) = objection(conn, config, stored).await? else {
        return Ok(false);
    };
    let answer: String = sqlx::query_scalar("select ask_for_review($1, $2, $3, $4)")
        .bind(broadcast.0)
        .bind(&objection.digest)
        .bind(Json(&objection.findings))
        .bind(objection.may_be_cleared)
        .fetch_one(conn)
        .await?;
    Ok(answer != "cleared")
}

/// Looks at a broadcast whose time has not come, so that a person can decide before it does. It is looked at again then.
pub(super) async fn look_ahead(
    pool: &PgPool,
    config: &BroadcastConfig,
    broadcast: BroadcastId,
) -> Result<(), sqlx::Error> {
    let mut tx = db::begin(pool).await?;
    let scheduled: Option<bool> =
        sqlx::query_scalar("select state = 'scheduled' from broadcast where id = $1 for update")
            .bind(broadcast.0)
            .fetch_optional(&mut *tx)
            .await?;
    if scheduled == Some(true)
        && let Some(stored) = stored::read(&mut tx, broadcast).await?
        && must_wait(&mut tx, config, broadcast, &stored).await?
    {
        tx.commit().await?;
    }
    Ok(())
}

/// What a merchant should know of the text message before sending.
pub(super) async fn warnings(
    conn: &mut PgConnection,
    config: &BroadcastConfig,
    stored: &Stored,
    route: &Route,
) -> Result<Vec<String>, sqlx::Error> {
    let Some(Letter { text, .. }) = letter(config, stored) else {
        return Ok(Vec::new());
    };
    let mut warnings = Vec::new();
    let parts = Segments::of(&text).parts;
    if parts > 1 {
        warnings.push(format!(
            "the text message takes {parts} parts, with `{}` in front: shorten it",
            config.sms_sender_name
        ));
    }
    if let Ok(content) = Content::parse(&stored.content) {
        warnings.extend(long_name(conn, config, stored, route, (&content, parts)).await?);
        if content.button().is_some() || content.image_url().is_some() {
            warnings.push("a text message has neither button nor image: they are left out there".to_owned());
        }
    }
    if let Some(objection) = objection(conn, config, stored).await? {
        warnings.push(format!(
            "it will wait for a review before anything leaves, because of its text message: {}",
            objection.findings.join(", ")
        ));
    }
    Ok(warnings)
}

/// A message that is longer for the longest name of the audience than it is for nobody, who takes `parts`.
async fn long_name(
    conn: &mut PgConnection,
    config: &BroadcastConfig,
    stored: &Stored,
    route: &Route,
    (content, parts): (&Content, usize),
) -> Result<Option<String>, sqlx::Error> {
    if !content.personalised() {
        return Ok(None);
    }
    let Some((first, last)) = preview::longest(conn, route, content).await? else {
        return Ok(None);
    };
    let text = sms_text_to(content, &config.sms_sender_name, &stored.shop_url, (&first, &last));
    let most = Segments::of(&text).parts;
    Ok((most > parts).then(|| {
        format!("for the longest name of the audience the text message takes {most} parts: `carillon broadcast preview` shows it")
    }))
}

/// The recorded name of a sender, if there is one, and what it has registered.
async fn known(conn: &mut PgConnection, sender: Uuid) -> Result<(Option<String>, Registered), sqlx::Error> {
    let name = sqlx::query_scalar("select approved_name from sms_identity where sender_id = $1")
        .bind(sender)
        .fetch_optional(&mut *conn)
        .await?;
    let rows: Vec<(String, String)> = sqlx::query_as("select kind, value from sms_registration where sender_id = $1")
        .bind(sender)
        .fetch_all(conn)
        .await?;
    let mut registered = Contacts::default();
    for (kind, value) in rows {
        match kind.as_str() {
            "link" => registered.links.push(value),
            _ => registered.phones.push(value),
        }
    }
    Ok((name, Registered(registered)))
}

fn digest(sender: Uuid, text: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(sender.as_bytes());
    context.update(text.as_bytes());
    STANDARD_NO_PAD.encode(context.finish().as_ref())
}
