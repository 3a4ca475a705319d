//! The integration tests: one binary, a module per subject, on a real Postgres.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

mod broadcast_create;
mod broadcast_plan;
mod broadcast_routing;
mod broadcast_scene;
mod fixture_db;
