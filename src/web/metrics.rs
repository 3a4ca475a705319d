//! `/metrics`: on the web process' own address, and on a small listener of every other process.
//!
//! The web's address is open to the world and traffic is nobody else's business: without a token only who is on the same
//! machine may read, and whoever comes through a proxy is not. Everybody else is told that there is nothing here.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{
    app::{App, ProcessKind},
    fleet, metrics,
};

/// What proxies add. A request with one of them comes from elsewhere, whatever its connection says.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
/// How often a process tries to get its port: the one before may still be ending.
const AGAIN: Duration = Duration::from_secs(5);

/// Answers with every series of this process.
pub(super) async fn show(State(app): State<App>, request: Request) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    if !may_read(app.config.metrics.token.expose(), peer, request.headers()) {
        return (StatusCode::NOT_FOUND, "not found\n").into_response();
    }
    fleet::look_at_parts(&app).await;
    // The scheduler looks by itself.
    if app.process == ProcessKind::Web {
        fleet::look_for_reader(&app).await;
    }
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::text(fleet::series()),
    )
        .into_response()
}

/// Listens for readers beside the work of a process that serves no web. Never a reason for the process to end: one that
/// sends is worth more than its figures.
pub async fn serve(app: App) {
    let config = &app.config.metrics;
    if config.port == 0 {
        return;
    }
    let address = SocketAddr::from((config.bind, config.port));
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, metrics.address = %address, "Cannot listen for readers of /metrics yet; trying again every 5 s");
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    };
    tracing::info!(metrics.address = %address, "Figures on http://{address}/metrics");
    let router = Router::new().route("/metrics", get(show)).with_state(app);
    if let Err(error) = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await {
        tracing::warn!(%error, "The listener for /metrics ended");
    }
}

fn may_read(token: &str, peer: Option<SocketAddr>, headers: &HeaderMap) -> bool {
    if token.is_empty() {
        let near = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        return near && !FORWARDED.iter().any(|name| headers.contains_key(*name));
    }
    let given = headers
        .get(header::AUTHORIZATION)
        .map(axum::http::HeaderValue::as_bytes);
    given
        .and_then(|given| given.strip_prefix(b"Bearer "))
        .is_some_and(|given| same(given, token.as_bytes()))
}

/// Whether two texts are the same, in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn without_a_token_only_the_same_machine_reads_and_with_one_only_who_has_it() {
        let near: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:5000".parse().unwrap();
        let far: SocketAddr = "10.1.2.3:5000".parse().unwrap();
        let none = HeaderMap::new();
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        assert!(may_read("", Some(near), &none));
        assert!(may_read("", Some(mapped), &none));
        assert!(!may_read("", Some(far), &none));
        assert!(!may_read("", None, &none));
        assert!(!may_read("", Some(near), &with("x-forwarded-for", "1.2.3.4")));
        let token = "a-token-of-some-length";
        assert!(may_read(
            token,
            Some(far),
            &with("authorization", &format!("Bearer {token}"))
        ));
        assert!(!may_read(token, Some(near), &none));
        assert!(!may_read(token, Some(near), &with("authorization", token)));
        assert!(!may_read(
            token,
            Some(near),
            &with("authorization", "Bearer a-token-of-some-lengti")
        ));
    }
}
