//! `carillon tokens`: what operators do about a shop's tokens.
//!
//! It must never move a token itself: it reads arguments, calls `crate::top_up`, and shows what came of it.

mod topup;

use super::CliError;
use crate::app::App;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Orders of extra tokens: place, list, mark as charged or failed, refund
    #[command(subcommand)]
    Topup(topup::Command),
}

pub(super) async fn run(app: App, command: Command) -> Result<(), CliError> {
    match command {
        Command::Topup(command) => topup::run(app, command).await,
    }
}
