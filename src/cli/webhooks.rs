//! `carillon webhooks`: which requests of providers came, what became of them, and another try for those put aside.
//!
//! What a request says is shown only where somebody asks for it by name: it holds what customers wrote.

use carillon_jobs::{Envelope, SenderId, WebhookId, WebhookIngest};
use serde_json::{Value, json};

use super::{
    CliError, complain, need_schema, plain, say,
    table::{self, Align},
};
use crate::{
    app::App,
    channel::webhook::Provider,
    inbox::webhook::{self, Filter, Overview, Shown, State},
};

const REASON_CHARS: usize = 80;
/// Webhooks one call shows at most, and one call replays.
const MOST: i64 = 10_000;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// Show the newest webhooks: when each came, from whom, and what became of it
    List {
        #[command(flatten)]
        which: Which,
        /// Only in this state: stored, done or failed
        #[arg(long, value_name = "STATE")]
        state: Option<State>,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=MOST))]
        limit: i64,
        /// One JSON array of objects
        #[arg(long)]
        json: bool,
    },
    /// Show one webhook: where it came from, what became of it and why
    Show {
        /// Its id, as `carillon webhooks list` shows it
        id: WebhookId,
        /// Its body, exactly as it came, and nothing else: it may hold what customers wrote
        #[arg(long, conflicts_with = "json")]
        body: bool,
        /// One JSON object, without the body
        #[arg(long)]
        json: bool,
    },
    /// Work through webhooks again: those named, or those put aside; what was applied before is not applied again
    Replay {
        /// Their ids
        #[arg(value_name = "ID", required_unless_present = "failed")]
        ids: Vec<WebhookId>,
        /// Every one that was put aside; narrower with --sender and --provider
        #[arg(long, conflicts_with = "ids")]
        failed: bool,
        #[command(flatten)]
        which: Which,
        /// One JSON object: {"replayed": …}
        #[arg(long)]
        json: bool,
    },
}

/// Which webhooks.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Only those addressed to this sender
    #[arg(long, value_name = "ID")]
    sender: Option<SenderId>,
    /// Only of this provider: line, messenger, whatsapp, twilio, mitake, store or email
    #[arg(long)]
    provider: Option<Provider>,
}

impl Which {
    fn filter(&self, state: Option<State>) -> Filter {
        Filter {
            sender: self.sender,
            provider: self.provider,
            state,
        }
    }
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    need_schema(&app).await?;
    match args {
        Args::List {
            which,
            state,
            limit,
            json,
        } => list(&webhook::list(&app.db, &which.filter(state), limit).await?, json),
        Args::Show { id, body, json } => {
            let found = webhook::show(&app.db, id).await?;
            let shown = found.ok_or_else(|| {
                CliError::Wrong(format!(
                    "there is no webhook {id}, or it is forgotten: `carillon webhooks list` shows those kept"
                ))
            })?;
            show(&shown, body, json)
        }
        Args::Replay {
            ids,
            failed,
            which,
            json,
        } => {
            let ids = if failed {
                let found = webhook::list(&app.db, &which.filter(Some(State::Failed)), MOST).await?;
                found.iter().map(|webhook| WebhookId(webhook.id)).collect()
            } else {
                ids
            };
            replay(&app, &ids, json).await
        }
    }
}

fn object(webhook: &Overview) -> Value {
    json!({
        "id": webhook.id, "received_at": webhook.received_at, "provider": webhook.provider, "sender_id": webhook.sender_id,
        "bytes": webhook.bytes, "state": webhook.state.as_str(), "attempts": webhook.attempts, "reason": webhook.reason,
    })
}

fn list(found: &[Overview], as_json: bool) -> Result<(), CliError> {
    if as_json {
        return say(&Value::Array(found.iter().map(object).collect()).to_string());
    }
    if found.is_empty() {
        return say("no webhooks");
    }
    let rows = found.iter().map(|webhook| {
        vec![
            webhook.id.to_string(),
            plain::moment(webhook.received_at),
            webhook.provider.clone(),
            webhook.sender_id.to_string(),
            table::number(webhook.bytes),
            webhook.state.as_str().to_owned(),
            plain::cell(webhook.reason.as_deref().unwrap_or("-"), REASON_CHARS),
        ]
    });
    let heads = [
        ("webhook", Align::Left),
        ("received", Align::Left),
        ("provider", Align::Left),
        ("sender", Align::Left),
        ("bytes", Align::Right),
        ("state", Align::Left),
        ("reason", Align::Left),
    ];
    table::print(&heads, rows.collect())
}

fn show(shown: &Shown, body: bool, as_json: bool) -> Result<(), CliError> {
    let webhook = &shown.overview;
    if body {
        return say(&plain::block(&String::from_utf8_lossy(&shown.body)));
    }
    if as_json {
        let mut object = object(webhook);
        if let Some(fields) = object.as_object_mut() {
            fields.insert("is_verified".to_owned(), shown.is_verified.into());
            fields.insert("due_at".to_owned(), json!(shown.due_at));
            let names: Vec<&String> = shown
                .headers
                .as_object()
                .into_iter()
                .flat_map(|headers| headers.keys())
                .collect();
            fields.insert("headers".to_owned(), json!(names));
        }
        return say(&object.to_string());
    }
    let verified = if shown.is_verified {
        "when it came"
    } else {
        "by the worker: a frontend stored it"
    };
    let lines = [
        ("webhook", webhook.id.to_string()),
        ("received", plain::moment(webhook.received_at)),
        ("provider", webhook.provider.clone()),
        ("sender", webhook.sender_id.to_string()),
        ("bytes", table::number(webhook.bytes)),
        ("verified", verified.to_owned()),
        ("state", webhook.state.as_str().to_owned()),
        ("attempts", webhook.attempts.to_string()),
        ("due", plain::moment_or_dash(shown.due_at)),
        ("reason", plain::cell(webhook.reason.as_deref().unwrap_or("-"), 200)),
    ];
    lines
        .iter()
        .try_for_each(|(name, value)| say(&format!("  {name:<9} {value}")))
}

async fn replay(app: &App, ids: &[WebhookId], as_json: bool) -> Result<(), CliError> {
    let replayed = webhook::replay(&app.db, ids).await?;
    let gone = i64::try_from(ids.len()).unwrap_or(i64::MAX) - replayed;
    let bells = ids
        .iter()
        .map(|id| Envelope::new(WebhookIngest { webhook_id: Some(*id) }));
    // On disk already: without Redis the scheduler rings, a little later.
    if replayed > 0
        && let Err(error) = app.queue()?.ring_many(bells).await
    {
        complain(&format!("cannot ring now ({error}); the scheduler does within seconds"));
    }
    if as_json {
        return say(&json!({"replayed": replayed, "forgotten": gone}).to_string());
    }
    match (replayed, gone) {
        (0, 0) => say("nothing to replay"),
        (replayed, 0) => say(&format!("{} are worked through again", table::number(replayed))),
        (replayed, gone) => say(&format!(
            "{} are worked through again; {} are not kept any more",
            table::number(replayed),
            table::number(gone)
        )),
    }
}
