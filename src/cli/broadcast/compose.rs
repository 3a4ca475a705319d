//! The options that describe a new broadcast.
//!
//! It must never check what `crate::broadcast` checks: it only brings options into its form.

use std::str::FromStr;

use carillon_jobs::{CustomerId, SenderId, ShopId};
use serde_json::{Map, Value};

use super::super::CliError;
use crate::{
    broadcast::{Audience, BroadcastConfig, Mode, NewBroadcast, default_channels},
    channel::Channel,
    db::PgPool,
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The shop's id
    #[arg(long, value_name = "ID")]
    shop: Option<ShopId>,
    /// What you call it
    #[arg(long, default_value = "Broadcast")]
    name: String,
    /// `app_plus_one`: the app and at most one more channel; `priority_single`: the first channel that reaches a customer
    #[arg(long, default_value = "app_plus_one")]
    mode: Mode,
    /// Channels in order, each CHANNEL or CHANNEL=SENDER_ID; by default app, or for priority_single every connected one
    #[arg(long, value_delimiter = ',', value_name = "CHANNEL,…")]
    channels: Vec<Chosen>,
    /// The text; may hold {first_name}, {last_name}, {shop_url}
    #[arg(long)]
    text: Option<String>,
    /// What stands in for a name nobody knows: first_name=friend (repeatable)
    #[arg(long, value_name = "FIELD=TEXT", value_parser = pair)]
    fallback: Vec<(String, String)>,
    /// A button's label; needs --link
    #[arg(long, value_name = "LABEL", requires = "link")]
    button: Option<String>,
    /// The button's https link
    #[arg(long, value_name = "URL", requires = "button")]
    link: Option<String>,
    /// An image's https link
    #[arg(long, value_name = "URL")]
    image: Option<String>,
    /// The email's subject; by default the text's first line
    #[arg(long)]
    subject: Option<String>,
    /// The app push's title; by default the shop's name
    #[arg(long)]
    title: Option<String>,
    /// The whole message as JSON in a file, instead of the options above
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "fallback", "button", "link", "image", "subject", "title"])]
    content: Option<std::path::PathBuf>,
    /// To customers with this tag; by default to everybody
    #[arg(long)]
    tag: Option<String>,
    /// To these customers
    #[arg(long, value_delimiter = ',', value_name = "ID,…", conflicts_with = "tag")]
    customers: Vec<CustomerId>,
    /// Send nothing if it would cost more tokens
    #[arg(long, value_name = "TOKENS")]
    budget: Option<u32>,
    /// When, on the shop's clock: "2026-11-30 10:00"
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Hours after its start when what has not left expires
    #[arg(long, default_value_t = 24)]
    deadline_hours: u32,
}

#[derive(Debug, Clone, Copy)]
struct Chosen(Channel, Option<SenderId>);

impl FromStr for Chosen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (channel, sender) = text
            .split_once('=')
            .map_or((text, None), |(channel, sender)| (channel, Some(sender)));
        let channel = channel
            .trim()
            .parse()
            .map_err(|error: crate::channel::UnknownChannel| error.to_string())?;
        let sender = sender
            .map(|id| id.parse().map_err(|_| format!("`{id}` is no sender's id")))
            .transpose()?;
        Ok(Self(channel, sender))
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (field, value) = text.split_once('=').ok_or("write it like first_name=friend")?;
    Ok((field.to_owned(), value.to_owned()))
}

impl Options {
    /// The broadcast these options describe.
    pub(super) async fn into_broadcast(self, db: &PgPool, config: &BroadcastConfig) -> Result<NewBroadcast, CliError> {
        let shop = self
            .shop
            .ok_or_else(|| CliError::Wrong("--shop is needed: whose broadcast is it?".to_owned()))?;
        let content = self.message()?;
        let audience = match (self.tag, self.customers.is_empty()) {
            (Some(tag), _) => serde_json::json!({ "tag": tag }),
            (None, false) => serde_json::json!({ "customers": self.customers }),
            (None, true) => serde_json::json!({ "all": true }),
        };
        let audience = Audience::parse(&audience).map_err(|problem| CliError::Wrong(problem.to_string()))?;
        let mut channels: Vec<_> = self
            .channels
            .into_iter()
            .map(|Chosen(channel, sender)| (channel, sender))
            .collect();
        if channels.is_empty() {
            let usual = default_channels(db, config, shop, self.mode).await;
            let usual = usual.map_err(|error| CliError::Failed(crate::db::describe(&error)))?;
            channels = usual.into_iter().map(|channel| (channel, None)).collect();
        }
        Ok(NewBroadcast {
            shop,
            name: self.name,
            mode: self.mode,
            channels,
            content,
            audience,
            budget_tokens: self.budget,
            at: self.at,
            deadline_hours: Some(self.deadline_hours),
        })
    }

    fn message(&self) -> Result<Value, CliError> {
        if let Some(path) = &self.content {
            let wrong = |problem: String| CliError::Wrong(format!("--content {}: {problem}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            return serde_json::from_str(&text).map_err(|error| wrong(error.to_string()));
        }
        let mut content = Map::new();
        let mut put = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                content.insert(name.to_owned(), Value::String(value.clone()));
            }
        };
        put("text", &self.text);
        put("image_url", &self.image);
        put("subject", &self.subject);
        put("title", &self.title);
        if let (Some(label), Some(url)) = (&self.button, &self.link) {
            content.insert("button".to_owned(), serde_json::json!({ "label": label, "url": url }));
        }
        if !self.fallback.is_empty() {
            let fallbacks = self
                .fallback
                .iter()
                .map(|(field, value)| (field.clone(), Value::String(value.clone())));
            content.insert("fallbacks".to_owned(), Value::Object(fallbacks.collect()));
        }
        Ok(Value::Object(content))
    }
}
