//! The queue: the only home of apalis and of job queues in Redis.
//!
//! Redis holds pointers to work and may be lost at any moment; Postgres holds what is true. So nothing here may be the
//! only place that knows something, with one exception that is carried over as soon as it can be: a job that has died.
//!
//! | file | duty |
//! |---|---|
//! | `producer` | ring: push jobs |
//! | `depth`, `backlog` | how many jobs lie where, and since when; `find`: where one job lies |
//! | `run` | a worker process from start to stop, built on apalis |
//! | `backend`, `service`, `ticket` | a claimed job on its way through apalis to exactly one settlement |
//! | `claimer`, `renewer`, `settler`, `wake`, `dead_writer`, `rest` | the loops beside it |
//! | `engine`, `slots`, `lease`, `outbox`, `availability` | what those loops share |
//! | `store`, `entry`, `keys`, `connection`, `*.lua` | the queue in Redis |
//! | `dead` | dead jobs in Postgres: list, show, replay, delete |

mod availability;
mod backend;
mod backlog;
mod claimer;
mod config;
mod connection;
pub mod dead;
mod dead_record;
mod dead_writer;
mod depth;
mod engine;
mod entry;
mod error;
pub mod find;
mod keys;
mod lease;
#[cfg(test)]
mod model_tests;
mod outbox;
mod outcome;
mod producer;
mod renewer;
mod rest;
mod run;
mod service;
mod settler;
mod slots;
mod store;
#[cfg(test)]
mod store_tests;
mod ticket;
mod wake;

pub use backlog::Backlog;
pub use config::QueueConfig;
pub use connection::{RedisConn, ServerInfo, check_server};
pub use dead::DeadReason;
pub use depth::Depth;
pub use error::QueueError;
pub use lease::Lease;
pub use outcome::{JobContext, JobError, Outcome};
pub use producer::{Queue, Rung};
pub use run::run;
