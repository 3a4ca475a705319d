//! `/healthz`: this process runs. `/readyz`: it can do its work, and if not, what is missing.
//!
//! A platform restarts a process on the first and takes it out of the rotation on the second, so the first never looks at
//! anything outside: restarting a process does not bring a database back.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    app::{App, schema_advice},
    db::{self, SchemaState},
    queue::{self, QueueError},
};

/// How long one check may take; together they take no longer, because they run side by side.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn process() -> Json<Value> {
    Json(json!({"ok": true, "version": env!("CARGO_PKG_VERSION")}))
}

pub(super) async fn ready(State(app): State<App>) -> Response {
    let (postgres, schema, redis) = tokio::join!(check(postgres(&app)), check(schema(&app)), check(redis(&app)));
    let stopping = app.stop.is_cancelled();
    let ready = !stopping
        && [&postgres, &schema, &redis]
            .into_iter()
            .all(|check| check.error.is_none());
    let checks: Map<String, Value> = [("postgres", postgres), ("schema", schema), ("redis", redis)]
        .into_iter()
        .map(|(name, check)| (name.to_owned(), check.into_json()))
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({"ready": ready, "stopping": stopping, "checks": checks})),
    )
        .into_response()
}

struct Check {
    error: Option<String>,
    took: Duration,
}

impl Check {
    fn into_json(self) -> Value {
        let millis = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        match self.error {
            None => json!({"ok": true, "duration_ms": millis}),
            Some(error) => json!({"ok": false, "error": error, "duration_ms": millis}),
        }
    }
}

/// Errors are in our words: this page is open to everybody, and a driver's words may hold an address.
async fn check(work: impl Future<Output = Result<(), String>>) -> Check {
    let start = Instant::now();
    let late = Err(format!("no answer within {} s", CHECK_LIMIT.as_secs()));
    let result = tokio::time::timeout(CHECK_LIMIT, work).await.unwrap_or(late);
    Check {
        error: result.err(),
        took: start.elapsed(),
    }
}

async fn postgres(app: &App) -> Result<(), String> {
    let answer = sqlx::query("SELECT 1").execute(&app.db).await;
    answer.map(drop).map_err(|error| database_words(&error))
}

async fn schema(app: &App) -> Result<(), String> {
    match db::check_schema(&app.db).await {
        // A database ahead of the program is the ordinary moment of a deploy.
        Ok(SchemaState::UpToDate | SchemaState::Ahead(_)) => Ok(()),
        Ok(state @ (SchemaState::Behind(_) | SchemaState::Outgrown(_) | SchemaState::Changed(_))) => {
            Err(schema_advice(&state))
        }
        Err(error) => Err(database_words(&error)),
    }
}

async fn redis(app: &App) -> Result<(), String> {
    let answer = match queue::check_server(&mut app.redis.clone()).await {
        // A connection that broke while nobody used it says so once, whether or not Redis is back by now.
        Err(QueueError::Redis(_)) => queue::check_server(&mut app.redis.clone()).await,
        answer => answer,
    };
    match answer {
        Ok(_) => Ok(()),
        Err(QueueError::Redis(error)) if error.is_timeout() => Err("no answer in time".to_owned()),
        Err(QueueError::Redis(error)) if error.is_io_error() => Err("cannot be reached".to_owned()),
        Err(QueueError::Redis(_)) => Err("refuses to answer (credentials? still loading?)".to_owned()),
        // What the others say is in our words already.
        Err(error) => Err(error.to_string()),
    }
}

fn database_words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => "no free connection in time".to_owned(),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => "cannot be reached".to_owned(),
        sqlx::Error::Database(error) => format!("refused (SQLSTATE {})", error.code().unwrap_or_default()),
        _ => "failed".to_owned(),
    }
}
