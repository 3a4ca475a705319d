//! A WhatsApp number: its credentials, parsed.
//!
//! It must never show the token or the app's secret.

use std::sync::OnceLock;

use serde::Deserialize;
use url::Url;

use super::MessageTemplate;
use crate::channel::{
    Channel, SenderError,
    graph::Access,
    sender::{field, is_meta_id, read},
};

/// A number that messages are sent from.
pub struct NumberAccount {
    /// The number's id at Meta: digits, and not the number itself.
    pub phone_number_id: String,
    /// The approved template broadcasts are sent by; `None`: as free messages, inside the customer's window.
    pub template: Option<MessageTemplate>,
    pub(super) access: Access,
    /// Where messages go, once it is known.
    pub(super) messages: OnceLock<Option<Url>>,
}

impl NumberAccount {
    pub(in crate::channel) fn parse(json: &str) -> Result<Self, SenderError> {
        #[derive(Deserialize)]
        struct Stored {
            phone_number_id: String,
            access_token: String,
            app_secret: Option<String>,
            template: Option<MessageTemplate>,
        }
        let stored: Stored = read(Channel::Whatsapp, json)?;
        if !is_meta_id(&stored.phone_number_id) {
            return Err(field(
                "phone_number_id",
                "is not a number's id: digits, as Meta's WhatsApp manager shows it",
            ));
        }
        let token = stored.access_token.trim();
        if token.is_empty() {
            return Err(field("access_token", "is empty: issue one for a system user"));
        }
        if let Some(problem) = stored.template.as_ref().and_then(MessageTemplate::problem) {
            return Err(field("template", problem));
        }
        let secret = stored
            .app_secret
            .as_deref()
            .map(str::trim)
            .filter(|secret| !secret.is_empty());
        Ok(Self {
            access: Access::new(token, secret)
                .ok_or(field("access_token", "holds characters no token has: copy it again"))?,
            phone_number_id: stored.phone_number_id,
            template: stored.template,
            messages: OnceLock::new(),
        })
    }
}
