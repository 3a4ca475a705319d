//! The integration tests: one binary, a module per subject, on a real Redis and a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// Nothing is public outside a test binary; `pub` in its modules only means "for the other modules".
#![allow(unreachable_pub)]
// Seeds and measured times, for whoever runs a test with --nocapture.
#![allow(clippy::print_stdout)]

mod alerts;
mod audit;
mod audit_kept;
mod broadcast_create;
mod broadcast_plan;
mod broadcast_plan_ends;
mod broadcast_routing;
mod broadcast_scene;
mod channel_app;
mod channel_email;
mod channel_line;
mod channel_scene;
mod chaos;
mod cli;
mod cli_tokens;
mod db_begin;
mod delivery;
mod delivery_slow;
mod events;
mod explain;
mod explain_delivery;
mod fairness;
mod fake_clock;
mod fixture;
mod fixture_db;
mod foreign;
mod frontend;
mod gate;
mod hostile;
mod kill;
mod ledger;
mod ledger_adjust;
mod ledger_guard;
mod ledger_model;
mod ledger_property;
mod limit;
mod limit_scripts;
mod metrics;
mod pause;
mod period;
mod pgbouncer;
mod pooler;
mod prices;
mod process;
mod queue_dead;
mod queue_due;
mod queue_faults;
mod queue_garbage;
mod queue_hostile;
mod queue_jobs;
mod queue_lease;
mod queue_process;
mod queue_stop;
mod redis_server;
mod refill;
mod rolling;
mod scene;
mod seed;
mod send_sql;
mod start;
mod stop;
mod top_up;
mod top_up_cli;
mod top_up_gateway;
mod top_up_job;
mod top_up_refused;
mod top_up_scene;
mod trace;
mod wait;
mod web;
mod world;
