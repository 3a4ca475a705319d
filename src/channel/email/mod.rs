//! Email over SMTP: one pool of connections per sender.
//!
//! Why our own pool: see `connection`. SMTP has no idempotency key; a message whose final dot got no answer is
//! uncertain and is never repeated.
//!
//! It must never report a message as accepted without a 2xx to its final dot.

mod capped;
mod connection;
mod handshake;
mod pool;
mod reply;
mod starttls;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use carillon_jobs::SenderId;
use lettre::transport::smtp::{authentication::Credentials, extension::ClientId};
use tokio::time::{Instant, MissedTickBehavior};

use self::{
    connection::{Deadlines, Relay},
    handshake::Trust,
    pool::Pool,
};
use super::{
    config::{ChannelsError, EmailConfig, secs},
    outcome::{ErrorClass, Refusal, SendOutcome},
    sender::{EmailAccount, MailTls, mail_address},
};

/// The adapter.
pub(super) struct Email {
    config: EmailConfig,
    deadlines: Deadlines,
    trust: Trust,
    pools: Arc<Pools>,
}

/// One pool per sender, made for the account it then had: a changed password starts a new one.
type Pools = Mutex<HashMap<SenderId, (EmailAccount, Arc<Pool>)>>;

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email")
    }
}

impl Email {
    /// Must be called inside a tokio runtime: a task of it closes idle connections.
    ///
    /// # Errors
    /// The TLS of this program cannot be set up.
    pub(super) fn new(config: EmailConfig) -> Result<Self, ChannelsError> {
        let trust = Trust::of_the_web().map_err(|error| ChannelsError::Client(error.to_string()))?;
        let deadlines = Deadlines {
            connect: secs(config.connect_timeout_secs),
            command: secs(config.command_timeout_secs),
            prepare: config.prepare_within(),
            body: secs(config.body_timeout_secs),
        };
        Ok(Self::with(config, deadlines, trust))
    }

    fn with(config: EmailConfig, deadlines: Deadlines, trust: Trust) -> Self {
        let pools = Arc::new(Pools::default());
        tokio::spawn(sweep(Arc::downgrade(&pools), config.idle_secs));
        Self {
            config,
            deadlines,
            trust,
            pools,
        }
    }

    /// Sends one message; `mail` begins with its header `From`. `return_path`: where a bounce goes, if not to the account's own.
    pub(super) async fn send(
        &self,
        sender: SenderId,
        account: &EmailAccount,
        to: &str,
        mail: &[u8],
        return_path: Option<&str>,
    ) -> SendOutcome {
        let Some(to) = mail_address(to) else {
            return Refusal::new(ErrorClass::Recipient, "malformed_address").into();
        };
        let Ok(rest) = std::str::from_utf8(mail) else {
            return Refusal::new(ErrorClass::Content, "not_utf8").into();
        };
        // `Date` is when it leaves, so it cannot be part of what is rendered.
        let date = chrono::Utc::now().to_rfc2822();
        let mail = format!("Date: {date}\r\nTo: <{to}>\r\n{rest}");
        let marked = return_path.and_then(mail_address);
        let from = marked.as_ref().unwrap_or(&account.return_path);
        let outcome = self.pool(sender, account).send(from, &to, &mail).await;
        if let SendOutcome::Refused(refusal) = &outcome
            && reply::is_distrust(refusal)
        {
            tracing::warn!(sender.id = %sender, code = refusal.code, "This mail relay may be somebody else; it heard no mail");
        }
        outcome
    }

    fn pool(&self, sender: SenderId, account: &EmailAccount) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, pool)) = pools.get(&sender)
            && known == account
        {
            return Arc::clone(pool);
        }
        let config = &self.config;
        let idle = secs(config.idle_secs);
        let carry = config.messages_per_connection;
        let pool = Arc::new(Pool::new(self.relay(account), config.max_connections, idle, carry));
        pools.insert(sender, (account.clone(), Arc::clone(&pool)));
        pool
    }

    fn relay(&self, account: &EmailAccount) -> Relay {
        let hello = match self.config.hello_name.as_str() {
            "" => ClientId::default(),
            name => ClientId::Domain(name.to_owned()),
        };
        let login = account.login.clone();
        let own = Relay {
            host: account.host.clone(),
            port: account.port,
            tls: account.tls,
            trust: self.trust.clone(),
            login: login.map(|(username, password)| Credentials::new(username, password)),
            hello,
            deadlines: self.deadlines,
        };
        match self.config.relay_address() {
            None => own,
            Some((host, port)) => Relay {
                host: host.to_owned(),
                port,
                tls: MailTls::None,
                login: None,
                ..own
            },
        }
    }
}

/// Closes connections that have been idle for too long, and forgets pools that hold nothing.
async fn sweep(pools: Weak<Pools>, idle_secs: u64) {
    let mut tick = tokio::time::interval(secs(idle_secs).div_f64(2.0));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(pools) = pools.upgrade() else { return };
        let mut expired = Vec::new();
        {
            let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.retain(|_, (_, pool)| {
                expired.extend(pool.expired(Instant::now()));
                // Someone else holding it means a message is on its way.
                Arc::strong_count(pool) > 1 || !pool.is_empty()
            });
        }
        drop(pools);
        futures::future::join_all(expired.into_iter().map(connection::Connection::close)).await;
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_tls;
#[cfg(test)]
mod tests;
