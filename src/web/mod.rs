//! The web process: every address it answers, on one screen.
//!
//! A request is logged by its route, never by its full address: links carry tokens.

mod health;
pub mod metrics;
mod page;
mod unsubscribe;
mod webhooks;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::StatusCode,
    routing::get,
};
use tokio::net::TcpListener;
use tower_http::{limit::RequestBodyLimitLayer, timeout::TimeoutLayer, trace::TraceLayer};
use tracing::Span;

use crate::app::{App, AppError};

/// Every address.
pub fn router(app: App) -> Router {
    let limits = &app.config.web;
    let timeout = TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, limits.request_timeout());
    let body_limit = RequestBodyLimitLayer::new(limits.max_body_bytes);
    Router::new()
        .route("/healthz", get(health::process))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .route("/u/{token}", get(unsubscribe::ask).post(unsubscribe::act))
        .fallback(page::nothing_here)
        .layer(body_limit)
        .merge(webhooks::routes(&app))
        .layer(timeout)
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(log_response)
                // The response itself is logged; a failing readiness asked every second is no error for a person.
                .on_failure(()),
        )
        .with_state(app)
}

/// Serves until the process is told to stop, then lets running requests finish for a bounded time.
pub async fn run(app: App) -> Result<(), AppError> {
    let web = &app.config.web;
    let address = (web.bind, web.port);
    let what = || {
        format!(
            "cannot listen on {}, port {}: choose another with PORT",
            address.0, address.1
        )
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| AppError::System { what: what(), source })?;
    let bound = listener
        .local_addr()
        .map_err(|source| AppError::System { what: what(), source })?;
    tracing::info!(web.address = %bound, "Listening on http://{bound}");
    let patience = Duration::from_secs(web.shutdown_secs);
    let stop = app.stop.clone();
    let service = router(app).into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        ended = server => ended.map_err(|source| AppError::System { what: "the web server ended".to_owned(), source }),
        () = overdue => {
            tracing::warn!("Requests were still running when the time to stop was over");
            Ok(())
        }
    }
}

fn span(request: &Request) -> Span {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("(none)", MatchedPath::as_str);
    // Asked every few seconds by the platform: nothing a trace is wanted of.
    if matches!(route, "/healthz" | "/readyz" | "/metrics") {
        return tracing::debug_span!("request", http.method = %request.method(), http.route = route);
    }
    // A `traceparent` of the outside is not taken up: these addresses are open to everybody.
    tracing::info_span!("request", http.method = %request.method(), http.route = route)
}

fn log_response(response: &axum::response::Response, took: Duration, _span: &Span) {
    tracing::debug!(
        http.status = response.status().as_u16(),
        duration_ms = took.as_millis(),
        "Answered"
    );
}
