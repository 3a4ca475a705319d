//! Traces across processes: whose work a span continues, and what a bell hands on.
//!
//! All of it does nothing where traces are off. `tracestate` is neither read nor handed on.

use std::fmt::Display;

use carillon_jobs::TraceParent;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Makes a span the child of one in another process. To be called before the span is entered.
pub fn continues(span: &Span, parent: Option<TraceParent>) {
    let Some(parent) = parent else { return };
    let context = SpanContext::new(
        TraceId::from(parent.trace_id),
        SpanId::from(parent.parent_id),
        // Other flags than `sampled` are not ours to hand on.
        TraceFlags::new(parent.flags) & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    // Refused where traces are off.
    let _ = span.set_parent(Context::new().with_remote_span_context(context));
}

/// The span this runs in, to be handed on with a bell. `None` outside of any, and where traces are off.
#[must_use]
pub fn here() -> Option<TraceParent> {
    let context = Span::current().context();
    let span = context.span().span_context().clone();
    span.is_valid().then(|| TraceParent {
        trace_id: u128::from_be_bytes(span.trace_id().to_bytes()),
        parent_id: u64::from_be_bytes(span.span_id().to_bytes()),
        flags: span.trace_flags().to_u8(),
    })
}

/// Notes an id on the span this runs in: for the collector, not for the log. Never anything personal.
pub fn note(name: &'static str, value: impl Display) {
    Span::current().set_attribute(name, value.to_string());
}

/// Marks a span as failed. The error's text stays in the log: it may quote what a provider said.
pub fn failed(span: &Span) {
    span.set_status(Status::error(""));
}
