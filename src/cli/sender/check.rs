//! `carillon sender check ID`: whether an account is connected as it has to be, in words a merchant understands.
//!
//! It must never show a credential: findings hold none.

use carillon_jobs::SenderId;
use serde_json::json;

use super::super::{CliError, need_schema, say};
use crate::{
    app::App,
    channel::{Checked, FindingState},
    delivery::connection::{self, ConnectionError},
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The sender's id
    #[arg(value_name = "ID")]
    id: SenderId,
    /// Also set right what can be: subscribe to a page's messages
    #[arg(long)]
    mend: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: &App, args: Args) -> Result<(), CliError> {
    need_schema(app).await?;
    let checked = connection::check(&app.delivery()?, args.id, args.mend).await;
    let checked = checked.map_err(|error| match error {
        ConnectionError::NoSender(id) => super::nobody(id),
        ConnectionError::NoCheck(_) => CliError::Wrong(error.to_string()),
        ConnectionError::Database(_) | ConnectionError::Credentials(_) => CliError::Failed(error.to_string()),
    })?;
    tell(args.id, &checked, args.json)?;
    let works = |state| matches!(state, FindingState::Good | FindingState::Warning);
    let open = checked.findings.iter().filter(|one| !works(one.state)).count();
    if checked.works() {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{open} of {} are not as they have to be",
        checked.findings.len()
    )))
}

fn tell(id: SenderId, checked: &Checked, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return say(&json!({"id": id, "works": checked.works(), "findings": checked.findings}).to_string());
    }
    for finding in &checked.findings {
        let mark = match finding.state {
            FindingState::Good => "ok",
            FindingState::Warning => "note",
            FindingState::Bad => "WRONG",
            FindingState::Unknown => "?",
        };
        say(&format!("{mark:>6}  {}", finding.zh))?;
        say(&format!("        {}", finding.en))?;
    }
    Ok(())
}
