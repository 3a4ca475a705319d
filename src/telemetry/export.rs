//! Spans on their way to an OpenTelemetry collector: OTLP over HTTP with protobuf.
//!
//! Off unless `otel.endpoint_url` is set. A collector that is slow or away must never slow down or fail a job: spans wait in
//! a bounded buffer, what does not fit is dropped, and the end of a process waits for the last ones a second at most.
//!
//! It must never send a log line, nor a span of another crate: what those hold is not ours to vouch for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::http::{Request, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use serde::Deserialize;
use tokio::runtime::Handle;
use tracing_subscriber::{Layer as _, filter::filter_fn};

use super::{BoxedLayer, TelemetryError};
use crate::{
    app::ProcessKind,
    config::{Report, Section},
    secret::Hidden,
    tls,
};

/// What the last spans of a process get to leave.
const LAST_SPANS: Duration = Duration::from_secs(1);
/// The most of a collector's answer that is read.
const ANSWER_LIMIT: usize = 64 * 1024;

/// `[otel]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtelConfig {
    /// The collector, without `/v1/traces`; empty: no traces.
    pub endpoint_url: Hidden,
    /// What this installation is called there.
    pub service_name: String,
    /// Sent with every request, each `NAME=VALUE`.
    pub headers: Vec<Hidden>,
    /// How long one export may take, repetitions included.
    pub timeout_secs: u64,
}

impl Section for OtelConfig {
    fn check(&self, report: &mut Report<'_>) {
        let url = self.endpoint_url.expose();
        if !url.is_empty() {
            report.url("endpoint_url", url, &["http", "https"]);
        }
        report.required("service_name", &self.service_name, "name this installation");
        if self.headers.iter().any(|header| pair(header).is_none()) {
            report.wrong("headers", "not every one is NAME=VALUE", "write [\"authorization=…\"]");
        }
        report.range("timeout_secs", self.timeout_secs, 1..=60);
    }
}

fn pair(header: &Hidden) -> Option<(String, String)> {
    let (name, value) = header.expose().split_once('=')?;
    let name = ::http::HeaderName::try_from(name.trim()).ok()?;
    let value = ::http::HeaderValue::try_from(value.trim()).ok()?;
    Some((name.to_string(), value.to_str().ok()?.to_owned()))
}

/// The spans under way. Nothing is lost at an orderly end when [`Traces::flush`] is called.
#[derive(Debug)]
pub struct Traces {
    provider: Option<SdkTracerProvider>,
}

impl Traces {
    pub(super) fn none() -> Self {
        Self { provider: None }
    }

    /// Sends what is left, for at most a second. The runtime must still be there, and this must not run on it.
    pub fn flush(self) {
        if let Some(provider) = self.provider {
            // What did not get away in time is lost: the end of a process waits for no collector.
            let _ = provider.shutdown_with_timeout(LAST_SPANS);
        }
    }
}

/// The layer that takes up spans, and what sends them. `None` when traces are off.
pub(super) fn start(
    config: &OtelConfig,
    process: ProcessKind,
    runtime: &Handle,
) -> Result<Option<(Traces, BoxedLayer)>, TelemetryError> {
    let base = config.endpoint_url.expose();
    if base.is_empty() {
        return Ok(None);
    }
    // The builder's own text could quote the address, which may hold a password.
    let broken = |_: ExporterBuildError| {
        TelemetryError::Export("an OTEL_EXPORTER_OTLP_… variable or otel.endpoint_url cannot be used".to_owned())
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Collector {
            client: client().map_err(TelemetryError::Export)?,
            runtime: runtime.clone(),
            away: Arc::default(),
        })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", base.trim_end_matches('/')))
        .with_timeout(Duration::from_secs(config.timeout_secs))
        .with_headers(config.headers.iter().filter_map(pair).collect())
        .build()
        .map_err(broken)?;
    let resource = Resource::builder()
        .with_service_name(config.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("carillon.process", process.name()))
        .build();
    // Sampling, batching and limits are read by the SDK from OTEL_TRACES_SAMPLER, OTEL_BSP_… and OTEL_SPAN_….
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("carillon"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_context_activation(false)
        .with_filter(filter_fn(|metadata| {
            metadata.is_span() && *metadata.level() <= tracing::Level::INFO && metadata.target().starts_with("carillon")
        }))
        .boxed();
    let provider = Some(provider);
    Ok(Some((Traces { provider }, layer)))
}

fn client() -> Result<reqwest::Client, String> {
    let tls = tls::client_config().map_err(|error| error.to_string())?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("carillon/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| error.without_url().to_string())
}

/// The exporter runs on a thread of its own, the HTTP client on the runtime.
#[derive(Debug)]
struct Collector {
    client: reqwest::Client,
    runtime: Handle,
    /// The last export failed, and that has been said.
    away: Arc<AtomicBool>,
}

impl HttpClient for Collector {
    fn send_bytes<'me, 'async_trait>(
        &'me self,
        request: Request<Bytes>,
    ) -> BoxFuture<'async_trait, Result<Response<Bytes>, HttpError>>
    where
        'me: 'async_trait,
        Self: 'async_trait,
    {
        let exchange = self.runtime.spawn(exchange(self.client.clone(), request));
        let away = Arc::clone(&self.away);
        Box::pin(async move {
            let result = exchange.await?;
            note_presence(&away, &result);
            result
        })
    }
}

/// Said once: the exporter itself keeps silent about a collector that is away or refuses.
fn note_presence(away: &AtomicBool, result: &Result<Response<Bytes>, HttpError>) {
    let problem = match result {
        Ok(response) if response.status().is_success() => None,
        Ok(response) => Some(format!("it answers {}", response.status())),
        Err(error) => Some(error.to_string()),
    };
    match (problem, away.load(Ordering::Relaxed)) {
        (Some(problem), false) => {
            away.store(true, Ordering::Relaxed);
            tracing::warn!(
                problem,
                "The collector of [otel] takes no spans; they are dropped until it does"
            );
        }
        (None, true) => {
            away.store(false, Ordering::Relaxed);
            tracing::info!("The collector takes spans again");
        }
        (Some(_), true) | (None, false) => {}
    }
}

async fn exchange(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let request = reqwest::Request::try_from(request).map_err(reqwest::Error::without_url)?;
    let mut answer = client.execute(request).await.map_err(reqwest::Error::without_url)?;
    let mut response = Response::builder().status(answer.status());
    if let (Some(headers), Some(after)) = (
        response.headers_mut(),
        answer.headers_mut().remove(::http::header::RETRY_AFTER),
    ) {
        headers.insert(::http::header::RETRY_AFTER, after);
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > ANSWER_LIMIT {
            return Err(Box::new(opentelemetry_http::ResponseBodyTooLarge::new()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(response.body(body.into())?)
}
