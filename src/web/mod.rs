//! The web process: every address it answers, on one screen.

use crate::app::{App, AppError};

/// Serves until the process is told to stop.
pub async fn run(app: App) -> Result<(), AppError> {
    app.stop.cancelled().await;
    Ok(())
}
