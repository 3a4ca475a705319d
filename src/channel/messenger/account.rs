//! A Facebook page: its credentials, parsed.
//!
//! It must never show the token or the app's secret.

use std::sync::OnceLock;

use serde::Deserialize;
use url::Url;

use crate::channel::{
    Channel, SenderError,
    graph::Access,
    sender::{field, is_meta_id, read},
};

/// A Facebook page that messages are sent from.
pub struct PageAccount {
    /// The page's id: digits.
    pub page_id: String,
    pub(super) access: Access,
    /// The app the token belongs to, and its own token: what may ask about the page's token.
    pub(super) app: Option<App>,
    /// Where messages go, once it is known.
    pub(super) messages: OnceLock<Option<Url>>,
}

/// The app behind a page's token.
pub(super) struct App {
    pub(super) id: String,
    pub(super) access: Access,
}

impl PageAccount {
    pub(in crate::channel) fn parse(json: &str) -> Result<Self, SenderError> {
        #[derive(Deserialize)]
        struct Stored {
            page_id: String,
            access_token: String,
            app_id: Option<String>,
            app_secret: Option<String>,
        }
        let stored: Stored = read(Channel::Messenger, json)?;
        if !is_meta_id(&stored.page_id) {
            return Err(field(
                "page_id",
                "is not a page's id: digits, as Facebook's page settings show it",
            ));
        }
        let token = stored.access_token.trim();
        if token.is_empty() {
            return Err(field("access_token", "is empty: connect the page again"));
        }
        let secret = stored
            .app_secret
            .as_deref()
            .map(str::trim)
            .filter(|secret| !secret.is_empty());
        let unfit = field("access_token", "holds characters no token has: copy it again");
        let app = match (stored.app_id, secret) {
            (Some(id), _) if !is_meta_id(&id) => {
                return Err(field(
                    "app_id",
                    "is not an app's id: digits, as Meta's app dashboard shows it",
                ));
            }
            (Some(id), Some(secret)) => {
                // An app's own token is its id and secret; it needs no proof.
                let access = Access::new(&format!("{id}|{secret}"), None)
                    .ok_or(field("app_secret", "holds characters no secret has: copy it again"))?;
                Some(App { id, access })
            }
            (Some(_) | None, _) => None,
        };
        Ok(Self {
            access: Access::new(token, secret).ok_or(unfit)?,
            page_id: stored.page_id,
            app,
            messages: OnceLock::new(),
        })
    }
}
