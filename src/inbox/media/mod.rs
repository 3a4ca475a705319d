//! What customers attach, fetched and kept before the providers' links expire.
//!
//! Why it exists: a link to a picture is good for days at most, a conversation for years.
//!
//! Table of contents:
//! - `job`: the `media-fetch` job: what is due is fetched, what belongs to nobody any more is deleted
//! - `fetch`: bytes from a provider; `public`: which addresses may be asked
//! - `store`: where they are kept: a folder, or `s3`
//! - `config`: its settings
//!
//! It must never ask an address inside our own network, whatever a message says, and never keep more than it was allowed.

mod config;
mod fetch;
mod job;
mod public;
mod s3;
mod store;

pub use self::{
    config::MediaConfig,
    job::{MediaWork, has_due},
    store::{MediaStore, StoreError},
};
