//! `carillon sender check ID`: whether an account is set up as it must be, in words a merchant understands.
//!
//! It must never show a credential: findings hold none.

use carillon_jobs::SenderId;
use serde_json::json;

use super::super::{CliError, need_schema, say};
use crate::{
    app::App,
    channel::{Channels, Expected, Finding, Verdict},
    delivery::senders,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The sender's id
    #[arg(value_name = "ID")]
    id: SenderId,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: &App, args: Args) -> Result<(), CliError> {
    need_schema(app).await?;
    let sender = senders::open(&app.db, &app.secrets, args.id)
        .await?
        .ok_or_else(|| super::nobody(args.id))?;
    let sender = sender.map_err(CliError::Wrong)?;
    let webhook_url = format!(
        "{}/webhooks/{}/{}",
        app.config.web.public_url.trim_end_matches('/'),
        sender.channel(),
        sender.id
    );
    let channels = Channels::new(&app.config.channel).map_err(|error| CliError::Wrong(error.to_string()))?;
    let expected = Expected {
        webhook_url: Some(&webhook_url),
    };
    let findings = channels.check_connection(&sender, expected).await;
    tell(args.id, &findings, args.json)?;
    let open = findings.iter().filter(|finding| !finding.is_ok()).count();
    if open == 0 {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{open} of {} are not as they must be",
        findings.len()
    )))
}

fn tell(id: SenderId, findings: &[Finding], as_json: bool) -> Result<(), CliError> {
    if as_json {
        return say(&json!({ "id": id, "findings": findings }).to_string());
    }
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Advice => "note",
            Verdict::Wrong => "WRONG",
            Verdict::Unknown => "?",
        };
        say(&format!("{mark:>6}  {}: {}", finding.what, finding.zh))?;
        say(&format!("        {}", finding.en))?;
    }
    Ok(())
}
