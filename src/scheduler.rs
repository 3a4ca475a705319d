//! The scheduler process: which period becomes which job.

use crate::app::{App, AppError};

/// Rings for what is due until the process is told to stop.
pub async fn run(app: App) -> Result<(), AppError> {
    app.stop.cancelled().await;
    Ok(())
}
