//! `carillon sender sms`: who a text message sender is, and which links and numbers it has registered with the carriers.

use carillon_jobs::SenderId;
use serde_json::json;

use super::{
    CliError, need_schema, plain, say,
    table::{self, Align},
};
use crate::{
    app::App,
    broadcast::compliance::{self, RegistryError},
    db,
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Record who a sender is, as the carriers were told; nothing is sent before
    Identity {
        /// The sender's id
        #[arg(value_name = "SENDER")]
        sender: SenderId,
        /// The registered name; messages begin with channel.sms.sender_name, which must be this name
        #[arg(long, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        who: Who,
    },
    /// Record that a link (with all below it) or a phone number is registered
    Register(One),
    /// Record that it no longer is
    Unregister(One),
    /// Show every sender with its identity, links and numbers
    List {
        /// One JSON array of objects
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// The sender's id
    #[arg(value_name = "SENDER")]
    sender: SenderId,
    /// A link such as shop.example/sale, or a number such as 0912345678
    #[arg(value_name = "LINK|PHONE")]
    what: String,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// Who does it; it stands in the operators' log
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why: the contract, the registration's number
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl From<RegistryError> for CliError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Database(cause) => Self::Failed(db::describe(&cause)),
            RegistryError::NoSender(_) => Self::Wrong(format!("{error}: `carillon sender sms list` shows them")),
            RegistryError::Value | RegistryError::Text => Self::Wrong(format!("{error}; nothing was changed")),
        }
    }
}

pub(super) async fn run(app: &App, command: Command) -> Result<(), CliError> {
    need_schema(app).await?;
    match command {
        Command::Identity { sender, name, who } => {
            compliance::identity(&app.db, sender, &name, &who.by, &who.reason).await?;
            say(&format!(
                "sender {sender} is recorded as {}",
                plain::cell(name.trim(), 60)
            ))?;
            let begins = &app.config.channel.sms.sender_name;
            if !begins.contains(name.trim()) {
                return say(&format!(
                    "note: messages begin with `{begins}` (channel.sms.sender_name), which does not contain it: they wait for a review"
                ));
            }
            Ok(())
        }
        Command::Register(One { sender, what, who }) => {
            let one = compliance::registration(&what)?;
            let changed = compliance::register(&app.db, sender, &one, &who.by, &who.reason).await?;
            let was = if changed {
                "is registered"
            } else {
                "was registered already"
            };
            say(&format!("{} {} {was}", one.kind, one.value))?;
            say("next: what waits for it goes on with `carillon broadcast review clear ID`")
        }
        Command::Unregister(One { sender, what, who }) => {
            let one = compliance::registration(&what)?;
            let changed = compliance::unregister(&app.db, sender, &one, &who.by, &who.reason).await?;
            let was = if changed {
                "is no longer registered"
            } else {
                "was not registered"
            };
            say(&format!("{} {} {was}", one.kind, one.value))
        }
        Command::List { json } => list(app, json).await,
    }
}

async fn list(app: &App, as_json: bool) -> Result<(), CliError> {
    let all = compliance::registries(&app.db)
        .await
        .map_err(|error| CliError::Failed(db::describe(&error)))?;
    if as_json {
        return say(&json!(all).to_string());
    }
    if all.is_empty() {
        return say("no text message senders");
    }
    let heads = [
        ("sender", Align::Left),
        ("shop", Align::Left),
        ("name", Align::Left),
        ("identity", Align::Left),
        ("registered", Align::Left),
    ];
    let rows = all.iter().map(|one| {
        let identity = one.identity.as_ref().map_or_else(
            || "not recorded: nothing is sent".to_owned(),
            |identity| {
                let at = plain::moment_or_dash(Some(identity.recorded_at));
                format!(
                    "{} ({}, {at})",
                    plain::cell(&identity.approved_name, 30),
                    plain::cell(&identity.recorded_by, 20)
                )
            },
        );
        let registered: Vec<&str> = one.registered.iter().map(|one| one.value.as_str()).collect();
        vec![
            one.sender.to_string(),
            one.shop
                .as_deref()
                .map_or_else(|| "(platform)".to_owned(), |name| plain::cell(name, 20)),
            plain::cell(&one.name, 20),
            identity,
            plain::cell(&registered.join(", "), 120),
        ]
    });
    table::print(&heads, rows.collect())
}
