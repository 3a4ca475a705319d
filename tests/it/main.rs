//! Everything that needs a real neighbour: one binary, one module per subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod channel_app;
mod channel_email;
mod channel_line;
mod channel_scene;
