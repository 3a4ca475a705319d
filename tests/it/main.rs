//! Integration tests: one binary, one module per subject, on a real PostgreSQL and Redis (`bin/test`, or
//! `bin/services run -- cargo nextest run`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod web;
