//! Section `[metrics]`: where a process without a web server answers `/metrics`, and who may read it.

use std::net::IpAddr;

use serde::Deserialize;

use crate::{
    config::{Report, Section},
    secret::Hidden,
};

/// `[metrics]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// The address worker and scheduler listen on.
    pub bind: IpAddr,
    /// Their port; 0: they do not listen.
    pub port: u16,
    /// Who sends it as `Authorization: Bearer …` may read; empty: whoever is on the same machine.
    pub token: Hidden,
}

impl Section for MetricsConfig {
    fn check(&self, report: &mut Report<'_>) {
        let token = self.token.expose();
        let fits = token.is_empty() || (token.len() >= 16 && token.bytes().all(|byte| byte.is_ascii_graphic()));
        if !fits {
            report.wrong(
                "token",
                "cannot be sent in a header, or can be guessed",
                "use at least 16 letters and digits, for example from `openssl rand -hex 24`",
            );
        }
    }
}
