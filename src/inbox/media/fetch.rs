//! The bytes of an attachment, from whoever has them.
//!
//! Why it exists: LINE hands out content under the message's id, WhatsApp an address under a media id, Messenger and shop
//! fronts the address itself.
//!
//! It must never follow a redirect, ask inside our own network, hand an access token to an address that came in a message, or
//! read more than it may.

use std::net::IpAddr;

use reqwest::{Client, RequestBuilder, Response, StatusCode, header, redirect};
use serde::Deserialize;
use url::{Host, Url};

use super::{
    MediaConfig,
    public::{OnlyPublic, is_public},
};
use crate::channel::Channel;

/// What was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: Option<String>,
}

/// Why it was not. Neither says what or from where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// It can never be fetched.
    #[error("{0}")]
    Never(&'static str),
    /// Perhaps later.
    #[error("{0}")]
    Later(String),
}

/// Where an attachment is. Without `Debug`: it holds an access token.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// At this address.
    Url(&'a str),
    /// With the provider, under this id; the sender's access token opens it.
    Provider {
        channel: Channel,
        id: &'a str,
        access_token: &'a str,
    },
}

/// Fetches files.
#[derive(Clone)]
pub(super) struct Fetcher {
    /// For addresses from messages.
    strangers: Client,
    /// For the providers themselves.
    providers: Client,
    config: MediaConfig,
}

impl Fetcher {
    pub(super) fn new(config: &MediaConfig) -> Result<Self, String> {
        let mut strangers = builder(config)?;
        if config.only_public {
            strangers = strangers.dns_resolver(OnlyPublic);
        }
        let built = |client: reqwest::ClientBuilder| client.build().map_err(|error| error.without_url().to_string());
        Ok(Self {
            strangers: built(strangers)?,
            providers: built(builder(config)?)?,
            config: config.clone(),
        })
    }

    /// The client for our own services.
    pub(super) fn client(&self) -> Client {
        self.providers.clone()
    }

    pub(super) async fn fetch(&self, source: Source<'_>) -> Result<Fetched, FetchError> {
        match source {
            Source::Url(url) => {
                let url = self.allowed(url)?;
                self.read(self.strangers.get(url)).await
            }
            Source::Provider {
                channel: Channel::Line,
                id,
                access_token,
            } => {
                let url = under(&self.config.line_url, &["v2", "bot", "message", id, "content"])?;
                self.read(self.providers.get(url).bearer_auth(access_token)).await
            }
            Source::Provider {
                channel: Channel::Whatsapp,
                id,
                access_token,
            } => {
                #[derive(Deserialize)]
                struct Place {
                    url: String,
                }
                let url = under(&self.config.whatsapp_url, &[id])?;
                let told = self.read(self.providers.get(url).bearer_auth(access_token)).await?;
                let place: Place = serde_json::from_slice(&told.bytes)
                    .map_err(|_| FetchError::Later("the provider's answer names no place".to_owned()))?;
                // It comes from the provider and not from a message, and only opens for the same token.
                let url = self.allowed(&place.url)?;
                self.read(self.strangers.get(url).bearer_auth(access_token)).await
            }
            Source::Provider { .. } => Err(FetchError::Never("this channel keeps no files under an id")),
        }
    }

    fn allowed(&self, url: &str) -> Result<Url, FetchError> {
        let url = Url::parse(url).map_err(|_| FetchError::Never("not an address"))?;
        if !self.config.only_public {
            return Ok(url);
        }
        let inside = match url.host() {
            Some(Host::Ipv4(ip)) => !is_public(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => !is_public(IpAddr::V6(ip)),
            // What it resolves to is looked at when the connection is made.
            Some(Host::Domain(_)) => false,
            None => true,
        };
        if inside || url.scheme() != "https" {
            return Err(FetchError::Never("not a public https address"));
        }
        Ok(url)
    }

    async fn read(&self, request: RequestBuilder) -> Result<Fetched, FetchError> {
        let answer = request
            .send()
            .await
            .map_err(|error| FetchError::Later(kind_of(&error).to_owned()))?;
        match answer.status() {
            StatusCode::OK => {}
            // LINE: still being prepared.
            StatusCode::ACCEPTED => return Err(FetchError::Later("not ready yet".to_owned())),
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(FetchError::Never("it is gone")),
            status if status.is_redirection() => return Err(FetchError::Never("it is somewhere else")),
            status => return Err(FetchError::Later(format!("the answer was {}", status.as_u16()))),
        }
        let content_type = answer.headers().get(header::CONTENT_TYPE);
        let content_type = content_type
            .and_then(|value| value.to_str().ok())
            .map(|value| value.chars().take(100).collect());
        Ok(Fetched {
            bytes: self.body(answer).await?,
            content_type,
        })
    }

    async fn body(&self, mut answer: Response) -> Result<Vec<u8>, FetchError> {
        let most = self.config.max_bytes;
        let too_large = || FetchError::Never("it is larger than media.max_bytes");
        if answer.content_length().is_some_and(|length| length > most as u64) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|error| FetchError::Later(kind_of(&error).to_owned()))?
        {
            if bytes.len() + chunk.len() > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

fn builder(config: &MediaConfig) -> Result<reqwest::ClientBuilder, String> {
    let tls = crate::tls::client_config().map_err(|error| error.to_string())?;
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(config.timeout())
        .user_agent(concat!("carillon/", env!("CARGO_PKG_VERSION"))))
}

/// An address below another, with an id of a provider's as one part of it.
fn under(base: &str, parts: &[&str]) -> Result<Url, FetchError> {
    let broken = || FetchError::Never("not an address");
    let mut url = Url::parse(base).map_err(|_| broken())?;
    url.path_segments_mut()
        .map_err(|()| broken())?
        .pop_if_empty()
        .extend(parts);
    Ok(url)
}

/// The error's own text may quote the address.
fn kind_of(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "it took too long"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the answer broke off"
    }
}
