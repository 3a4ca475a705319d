//! Broadcasts: who gets what on which channel for how many tokens.
//!
//! Why it exists: everything before the first message leaves. A broadcast is checked at the door, estimated, and
//! planned in chunks; the last step of planning holds its whole cost and opens its lanes. Sending is `delivery`.
//!
//! Table of contents:
//! - `state`: the states and the moves between them (pure)
//! - `audience`: the customers a broadcast is for (pure)
//! - `routing`: who gets what on which channel, the rule in plain Rust (pure); `routing_sql`: the same as SQL
//! - `frequency`: how often one customer may hear from a shop (pure); `rules`: a shop's cap and quiet hours, kept
//! - `check`: what every broadcast must fulfil, at the door and again before planning (pure); `problem`: the refusals
//! - `senders`: from which account each channel is sent
//! - `stored`: a broadcast's row, read and checked
//! - `compliance`: text messages: who sends, and what waits for a person's review
//! - `estimate`: what it would do, without doing it
//! - `preview`: what it would show, by the code that sends
//! - `line_quota`: what LINE still lets an account send, asked, kept and reserved
//! - `create`: drafts, tests, resends; `control`: send, pause, resume, cancel; `schedule`: its time (pure)
//! - `job`: the `broadcast-send` job, one turn of planning or sending
//! - `turn`: whose turn it is to plan
//! - `plan`: from `queued` to `sending`, resumable; `chunk`: one transaction of it; `open`: its last; `purge`: what is left of a dead plan
//! - `report`: what became of it, from counters; `whereabouts`: the rows that decide why something has not left
//! - `config`: its settings
//!
//! It must never send anything, and never hold tokens before everything is planned.

mod audience;
mod check;
mod chunk;
pub mod compliance;
mod config;
mod control;
mod create;
mod estimate;
mod frequency;
mod job;
mod line_quota;
mod open;
pub mod plan;
mod preview;
mod problem;
mod purge;
mod report;
mod routing;
mod routing_sql;
pub mod rules;
mod schedule;
mod senders;
mod state;
mod stored;
pub mod turn;
pub mod whereabouts;

pub use audience::{Audience, CUSTOMERS_LIMIT, ResendOutcome};
pub use config::BroadcastConfig;
pub use control::{ControlError, cancel, pause, pause_all, resume, send};
pub use create::{CreateError, NewBroadcast, create, estimate_new, estimate_stored, resend, test_send};
pub use estimate::{ChannelEstimate, Estimate};
pub use frequency::{AppliedCap, CapSpan, FrequencyCap};
pub use job::BroadcastWork;
pub use line_quota::{Asked, LineEstimate, LineQuota, QuotaView, quota_view};
pub use plan::{Advance, PlanError, Planner};
pub use preview::{
    ChannelPreview, MessagePreview, Person, Preview, PreviewSetup, SmsPreview, Who, preview_new, preview_stored,
};
pub use problem::{Problem, Problems};
pub use report::{ChannelReport, Outcomes, Report, Tokens, report};
pub use routing::{Candidate, Mode, Place, Reach, Routed, SkipReason, route, window_hours};
pub use routing_sql::{Leg, Route};
pub use senders::default_channels;
pub use state::BroadcastState;
