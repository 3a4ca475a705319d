//! The inbox: what customers say to a shop, in conversations.
//!
//! Table of contents:
//! - `phone`: Taiwan's phone numbers in a text (pure)

mod phone;

pub use phone::{Phone, find as find_phones};
