//! Integration tests, in one binary because each further one costs a link of the whole crate.
//!
//! They need real services: `CARILLON_TEST_REDIS_URL` and `CARILLON_TEST_DATABASE_URL` (of a role that may create
//! databases). Every test has its own database and its own keys, so all of them run at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs
)]

mod fixture;
mod queue_dead;
mod queue_faults;
mod queue_jobs;
mod queue_lease;
mod queue_stop;
