//! The settings of the channels: sections `[channel.http]`, `[channel.line]`, `[channel.app]`, `[channel.email]`,
//! `[channel.messenger]`, `[channel.whatsapp]`, `[channel.sms]`.
//!
//! Defaults and explanations stand in `config/default.toml` and only there.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

/// `[channel]`: everything below.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    /// `[channel.http]`
    pub http: HttpConfig,
    /// `[channel.line]`
    pub line: LineConfig,
    /// `[channel.app]`
    pub app: AppConfig,
    /// `[channel.email]`
    pub email: EmailConfig,
    /// `[channel.messenger]`
    pub messenger: MessengerConfig,
    /// `[channel.whatsapp]`
    pub whatsapp: WhatsappConfig,
    /// `[channel.sms]`
    pub sms: SmsConfig,
}

/// `[channel.http]`: the one HTTP client of the process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Seconds to resolve, connect and shake hands.
    pub connect_timeout_secs: u64,
    /// Seconds an idle connection is kept; below the providers' own limit, so that they never close one under us.
    pub idle_secs: u64,
    /// Idle connections kept per host.
    pub idle_connections: usize,
}

/// `[channel.line]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineConfig {
    /// Scheme and host of the Messaging API.
    pub base_url: String,
    /// Seconds one request may take, answer included.
    pub timeout_secs: u64,
    /// Requests in flight per slice.
    pub in_flight: usize,
}

/// `[channel.app]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppConfig {
    /// Scheme and host of FCM.
    pub base_url: String,
    /// Where OAuth tokens are fetched; empty takes the `token_uri` of the sender's key file.
    pub token_url: String,
    /// Seconds one request may take, answer included.
    pub timeout_secs: u64,
    /// Requests in flight per slice; also the most that a crash leaves unknown of it.
    pub in_flight: usize,
}

/// `[channel.email]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// `host:port` used instead of every sender's own relay, without TLS or login; empty for none.
    pub relay: String,
    /// The name given in EHLO; empty takes the host name.
    pub hello_name: String,
    /// Seconds to resolve, connect and shake hands.
    pub connect_timeout_secs: u64,
    /// Seconds to wait for the answer to one command, the greeting included.
    pub command_timeout_secs: u64,
    /// Seconds to wait for the answer to the body.
    pub body_timeout_secs: u64,
    /// Seconds an idle connection is kept.
    pub idle_secs: u64,
    /// Connections per sender and process.
    pub max_connections: usize,
    /// Messages sent over one connection before it is replaced.
    pub messages_per_connection: u32,
    /// Messages in flight per slice; also the most that a crash leaves unknown of it.
    pub in_flight: usize,
}

/// `[channel.messenger]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessengerConfig {
    /// Scheme and host of the Graph API.
    pub base_url: String,
    /// Its version, such as `v25.0`.
    pub api_version: String,
    /// Seconds one request may take, answer included.
    pub timeout_secs: u64,
    /// Requests in flight per slice; also the most that a crash leaves unknown of it.
    pub in_flight: usize,
}

/// `[channel.whatsapp]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhatsappConfig {
    /// Scheme and host of the Graph API.
    pub base_url: String,
    /// Its version, such as `v24.0`.
    pub api_version: String,
    /// Seconds one request may take, answer included.
    pub timeout_secs: u64,
    /// Requests in flight per slice; also the most that a crash leaves unknown of it.
    pub in_flight: usize,
}

/// `[channel.sms]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmsConfig {
    /// The registered name every text message begins with.
    pub sender_name: String,
    /// Scheme and host of Twilio.
    pub twilio_base_url: String,
    /// Seconds Twilio may hold a message that its carrier does not take.
    pub twilio_validity_secs: u32,
    /// Where Mitake's calls are, for accounts without an address of their own.
    pub mitake_base_url: String,
    /// Seconds one request may take, answer included.
    pub timeout_secs: u64,
    /// Requests in flight per slice; by Twilio also the most that a crash leaves unknown of it.
    pub in_flight: usize,
}

/// Settings that cannot work, or a client that could not be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelsError {
    /// Every wrong setting, by its key.
    #[error("{}", .0.join("; "))]
    Settings(Vec<String>),
    /// The HTTP client, or its like for mail, could not be built.
    #[error("the client of the providers could not be built: {0}")]
    Client(String),
}

impl ChannelConfig {
    /// Everything wrong with the settings, each a sentence that starts with the key; empty when all is well.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (http, line, app, email) = (&self.http, &self.line, &self.app, &self.email);
        let (messenger, whatsapp, sms) = (&self.messenger, &self.whatsapp, &self.sms);
        for (key, url, optional) in [
            ("line.base_url", &line.base_url, false),
            ("app.base_url", &app.base_url, false),
            ("app.token_url", &app.token_url, true),
            ("messenger.base_url", &messenger.base_url, false),
            ("whatsapp.base_url", &whatsapp.base_url, false),
            ("sms.twilio_base_url", &sms.twilio_base_url, false),
            ("sms.mitake_base_url", &sms.mitake_base_url, false),
        ] {
            if !(optional && url.is_empty()) && base_url(url).is_none() {
                problems.push(format!("channel.{key} is not an http(s) URL: write https://host"));
            }
        }
        for (key, version) in [
            ("messenger.api_version", &messenger.api_version),
            ("whatsapp.api_version", &whatsapp.api_version),
        ] {
            if !is_api_version(version) {
                problems.push(format!("channel.{key} is not a version: write for example v25.0"));
            }
        }
        let days = 86_400;
        for (key, number, most) in [
            ("http.connect_timeout_secs", http.connect_timeout_secs, days),
            ("http.idle_secs", http.idle_secs, days),
            ("line.timeout_secs", line.timeout_secs, days),
            ("line.in_flight", line.in_flight as u64, 10_000),
            ("app.timeout_secs", app.timeout_secs, days),
            ("app.in_flight", app.in_flight as u64, 10_000),
            ("email.connect_timeout_secs", email.connect_timeout_secs, days),
            ("email.command_timeout_secs", email.command_timeout_secs, days),
            ("email.body_timeout_secs", email.body_timeout_secs, days),
            ("email.idle_secs", email.idle_secs, days),
            ("email.max_connections", email.max_connections as u64, 1_000),
            (
                "email.messages_per_connection",
                email.messages_per_connection.into(),
                1_000_000,
            ),
            ("email.in_flight", email.in_flight as u64, 10_000),
            ("messenger.timeout_secs", messenger.timeout_secs, days),
            ("messenger.in_flight", messenger.in_flight as u64, 10_000),
            ("whatsapp.timeout_secs", whatsapp.timeout_secs, days),
            ("whatsapp.in_flight", whatsapp.in_flight as u64, 10_000),
            ("sms.timeout_secs", sms.timeout_secs, days),
            ("sms.in_flight", sms.in_flight as u64, 10_000),
            ("sms.twilio_validity_secs", sms.twilio_validity_secs.into(), 36_000),
        ] {
            if number == 0 || number > most {
                problems.push(format!("channel.{key} is {number}: use 1 to {most}"));
            }
        }
        let shortest = [messenger.timeout_secs, whatsapp.timeout_secs, sms.timeout_secs]
            .into_iter()
            .fold(line.timeout_secs.min(app.timeout_secs), u64::min);
        if http.connect_timeout_secs >= shortest {
            // Else the request's own timeout hides that no connection was ever made.
            problems.push(format!(
                "channel.http.connect_timeout_secs must be below the timeout_secs of every channel ({shortest})"
            ));
        }
        if !fit_name(&sms.sender_name) {
            problems.push(
                "channel.sms.sender_name is not 1 to 20 plain Latin letters, digits or blanks, as it was registered"
                    .into(),
            );
        }
        if email.hello_name.contains(|c: char| !c.is_ascii_graphic()) {
            problems.push("channel.email.hello_name is not a host name".into());
        }
        if !email.relay.is_empty() && email.relay_address().is_none() {
            problems.push("channel.email.relay is not host:port".into());
        }
        problems
    }

    pub(super) fn check(&self) -> Result<(), ChannelsError> {
        let problems = self.problems();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ChannelsError::Settings(problems))
        }
    }
}

impl crate::config::Section for ChannelConfig {
    fn check(&self, report: &mut crate::config::Report<'_>) {
        report.sentences(self.problems());
    }
}

impl EmailConfig {
    /// How long a message may take until its body is written, waiting for a connection included: enough to connect
    /// and for two slow answers.
    #[must_use]
    pub(super) const fn prepare_within(&self) -> Duration {
        secs(self.connect_timeout_secs + 2 * self.command_timeout_secs)
    }

    /// The relay override as host and port.
    pub(super) fn relay_address(&self) -> Option<(&str, u16)> {
        let (host, port) = self.relay.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (!host.is_empty()).then_some((host.trim_matches(['[', ']']), port))
    }
}

/// A name carriers take: half-width, and without a dot that would make it look like a link.
fn fit_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'-' | b'&');
    (1..=20).contains(&name.len()) && name.trim() == name && name.bytes().all(fits)
}

/// A scheme and host without a trailing slash, or `None`.
pub(super) fn base_url(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim_end_matches('/')).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.host().is_some()).then_some(url)
}

/// `v` and a number with one digit behind the point.
fn is_api_version(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = text.strip_prefix('v').and_then(|number| number.split_once('.'));
    parts.is_some_and(|(major, minor)| digits(major) && digits(minor))
}

/// Seconds as a duration.
pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[cfg(test)]
mod tests {
    use crate::channel::fixture;

    #[test]
    fn the_settings_as_shipped_have_no_problem() {
        assert_eq!(fixture::config().problems(), Vec::<String>::new());
    }

    #[test]
    fn every_setting_that_cannot_work_is_named_by_its_key() {
        let mut config = fixture::config();
        config.line.base_url = "api.line.me".into();
        config.app.base_url = "ftp://fcm.example".into();
        config.app.token_url = "x".into();
        config.email.max_connections = 0;
        config.email.relay = "localhost".into();
        config.email.hello_name = "a b".into();
        config.http.connect_timeout_secs = config.line.timeout_secs;
        config.messenger.base_url = String::new();
        config.messenger.api_version = "25".into();
        config.whatsapp.in_flight = 0;
        let problems = config.problems();
        for key in [
            "channel.line.base_url",
            "channel.app.base_url",
            "channel.app.token_url",
            "channel.email.max_connections",
            "channel.email.relay",
            "channel.email.hello_name",
            "channel.http.connect_timeout_secs",
            "channel.messenger.base_url",
            "channel.messenger.api_version",
            "channel.whatsapp.in_flight",
        ] {
            let named = problems.iter().filter(|problem| problem.starts_with(key)).count();
            assert_eq!(named, 1, "{key}: {problems:?}");
        }
        assert_eq!(problems.len(), 10, "{problems:?}");
        assert!(crate::channel::Channels::new(&config).is_err());
    }
}
