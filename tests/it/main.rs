//! The integration tests: one binary, a module per subject, on a real Postgres.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod audit;
mod fixture_db;
mod ledger;
mod ledger_model;
mod ledger_property;
mod scene;
mod send_sql;
