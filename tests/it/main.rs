//! The integration tests: one binary, a module per subject, on a real Redis and a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod audit;
mod broadcast_create;
mod broadcast_plan;
mod broadcast_routing;
mod broadcast_scene;
mod channel_app;
mod channel_email;
mod channel_line;
mod channel_scene;
mod delivery;
mod fixture;
mod fixture_db;
mod kill;
mod ledger;
mod ledger_model;
mod ledger_property;
mod limit;
mod limit_scripts;
mod queue_dead;
mod queue_faults;
mod queue_jobs;
mod queue_lease;
mod queue_stop;
mod redis_server;
mod scene;
mod send_sql;
mod web;
mod world;
