//! The integration tests: one binary, a module per subject, on a real Redis and a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// Nothing is public outside a test binary; `pub` in its modules only means "for the other modules".
#![allow(unreachable_pub)]
// Seeds and measured times, for whoever runs a test with --nocapture.
#![allow(clippy::print_stdout)]

mod alerts;
mod audit;
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
mod db_begin;
mod delivery;
mod delivery_slow;
mod explain;
mod explain_delivery;
mod fairness;
mod fixture;
mod fixture_db;
mod foreign;
mod frontend;
mod gate;
mod hostile;
mod kill;
mod ledger;
mod ledger_model;
mod ledger_property;
mod limit;
mod limit_scripts;
mod metrics;
mod pause;
mod pgbouncer;
mod pooler;
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
mod rolling;
mod scene;
mod schedule;
mod schedule_process;
mod schedule_work;
mod seed;
mod send_sql;
mod start;
mod stop;
mod trace;
mod wait;
mod web;
mod world;
