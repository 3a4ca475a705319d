//! `carillon tokens`: what operators see of a shop's tokens, and do about them.
//!
//! It must never move a token itself: it reads arguments, calls `crate::ledger`, and shows what came of it.

mod adjust;
mod read;
mod topup;

use carillon_jobs::ShopId;

use super::{CliError, need_schema};
use crate::{app::App, ledger::LedgerError};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show what a shop has, what of it is held for broadcasts, and what it may spend
    Balance(read::Balance),
    /// Show a shop's ledger entries, the newest first
    Ledger(read::Ledger),
    /// Show what a shop spent, by month and channel
    Usage(read::UsageArgs),
    /// Write a shop's ledger as CSV to standard output, oldest first
    Export(read::Export),
    /// Orders of extra tokens: place, list, mark as charged or failed, refund
    #[command(subcommand)]
    Topup(topup::Command),
    /// Correct a balance by hand: one person asks, another one approves
    #[command(subcommand)]
    Adjust(adjust::Command),
}

pub(super) async fn run(app: App, command: Command) -> Result<(), CliError> {
    need_schema(&app).await?;
    match command {
        Command::Balance(args) => read::balance(&app, args).await,
        Command::Ledger(args) => read::ledger(&app, args).await,
        Command::Usage(args) => read::usage(&app, args).await,
        Command::Export(args) => read::export(&app, args).await,
        Command::Topup(command) => topup::run(app, command).await,
        Command::Adjust(command) => adjust::run(&app, command).await,
    }
}

/// A shop that nobody knows is a wrong call, and not an empty answer.
async fn known(app: &App, shop: ShopId) -> Result<(), CliError> {
    let known: bool = sqlx::query_scalar("select exists (select from shop where id = $1)")
        .bind(shop.0)
        .fetch_one(&app.db)
        .await?;
    if known {
        Ok(())
    } else {
        Err(CliError::Wrong(format!("there is no shop {shop}")))
    }
}

impl From<LedgerError> for CliError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Database(cause) => cause.into(),
            LedgerError::NoAccount(_) | LedgerError::Overdrawn(_) | LedgerError::InvalidOperation => {
                Self::Wrong(error.to_string())
            }
        }
    }
}
