//! The worker process: which function works on which kind of job.

use crate::app::{App, AppError};

/// Works until the process is told to stop.
pub async fn run(app: App) -> Result<(), AppError> {
    app.stop.cancelled().await;
    Ok(())
}
