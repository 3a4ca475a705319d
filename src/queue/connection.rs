//! The connection to Redis: short time-outs, reconnecting by itself, scripts loaded on demand.
//!
//! It must never wait for Redis at start: a worker that boots while Redis is away stays up and begins when it answers.

use std::{sync::Arc, time::Duration};

use redis::{
    Client, Cmd, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, PubSub},
    io::tcp::TcpSettings,
};

use super::{QueueConfig, QueueError};

/// A shared connection to Redis. Clones use the same socket.
#[derive(Clone)]
pub struct RedisConn {
    client: Client,
    manager: ConnectionManager,
    connect_timeout: Duration,
}

impl std::fmt::Debug for RedisConn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address may hold a password.
        f.debug_struct("RedisConn").finish_non_exhaustive()
    }
}

impl RedisConn {
    /// A connection to `url` (`redis://`, `rediss://` or `unix://`). Connects when it is first used.
    ///
    /// # Errors
    /// [`QueueError::Address`] if the address cannot be understood.
    pub fn connect(url: &str, config: &QueueConfig) -> Result<Self, QueueError> {
        let connect_timeout = Duration::from_millis(config.connect_timeout_ms);
        let settings = TcpSettings::default()
            .set_nodelay(true)
            // A host that vanished sends no reset; without this its half-open connection would live for a quarter of an hour.
            .set_user_timeout(Duration::from_millis(config.response_timeout_ms * 2));
        let info = url
            .into_connection_info()
            .map_err(|_| QueueError::Address)?
            .set_tcp_settings(settings);
        let client = Client::open(info).map_err(|_| QueueError::Address)?;
        let manager = ConnectionManager::new_lazy_with_config(
            client.clone(),
            ConnectionManagerConfig::new()
                .set_connection_timeout(Some(connect_timeout))
                .set_response_timeout(Some(Duration::from_millis(config.response_timeout_ms)))
                // Whoever asks decides whether and when to ask again.
                .set_number_of_retries(0),
        )
        .map_err(|_| QueueError::Address)?;
        Ok(Self {
            client,
            manager,
            connect_timeout,
        })
    }

    pub(crate) async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.manager.clone().send_packed_command(command).await?.extract_error()
    }

    pub(crate) async fn pipeline(&self, pipeline: &redis::Pipeline) -> Result<Vec<Value>, RedisError> {
        let count = pipeline.len();
        let values = self.manager.clone().send_packed_commands(pipeline, 0, count).await?;
        values.into_iter().map(Value::extract_error).collect()
    }

    /// Runs a script, loading it if the server does not have it (a restart or SCRIPT FLUSH forgets it).
    pub(crate) async fn script(&self, script: &Script, call: &Cmd) -> Result<Value, RedisError> {
        match self.send(call).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script.code);
                self.send(&load).await?;
                self.send(call).await
            }
            other => other,
        }
    }

    /// Runs scripts one after the other in one round trip. Each has its own answer: one that is refused says nothing about
    /// the others. The outer error is that of the connection.
    pub(crate) async fn scripts(&self, calls: &[(&Script, Cmd)]) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        let mut pipeline = redis::pipe();
        for (_, call) in calls {
            pipeline.add_command(call.clone());
        }
        let values = self
            .manager
            .clone()
            .send_packed_commands(&pipeline, 0, calls.len())
            .await?;
        let mut answers = Vec::with_capacity(calls.len());
        for ((script, call), value) in calls.iter().zip(values) {
            answers.push(match value.extract_error() {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.script(script, call).await
                }
                answer => answer,
            });
        }
        Ok(answers)
    }

    /// A connection of its own for listening.
    pub(crate) async fn listen(&self) -> Result<PubSub, RedisError> {
        match tokio::time::timeout(self.connect_timeout, self.client.get_async_pubsub()).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }
}

/// A Lua script and its digest.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    code: &'static str,
    sha: Arc<str>,
}

impl Script {
    pub(crate) fn new(code: &'static str) -> Self {
        Self {
            code,
            sha: redis::Script::new(code).get_hash().into(),
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// The beginning of a call: the digest and the keys.
    pub(crate) fn call<K: AsRef<str>>(&self, keys: &[K]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&*self.sha).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        command
    }
}

/// What was learned about a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its version, such as `7.0.15`.
    pub version: String,
    /// Bytes it uses.
    pub used_memory: u64,
}

/// Refuses a server that could lose jobs silently or lacks commands the queue needs.
///
/// # Errors
/// [`QueueError::Evicts`], [`QueueError::TooOld`], or [`QueueError::Redis`] when it does not answer.
pub async fn check_server(redis: &mut impl ConnectionLike) -> Result<ServerInfo, QueueError> {
    // INFO and not CONFIG: hosted servers forbid CONFIG.
    let text: String = redis::cmd("INFO").query_async(redis).await?;
    check_info(&text)
}

fn check_info(info: &str) -> Result<ServerInfo, QueueError> {
    let field = |name: &str| {
        info.lines()
            .filter_map(|line| line.trim_end().split_once(':'))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let version = field("redis_version").unwrap_or("unknown").to_owned();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) < (6, 2) {
        return Err(QueueError::TooOld { version });
    }
    // A server that does not tell (some compatible ones) is believed not to evict.
    let policy = field("maxmemory_policy").unwrap_or("noeviction");
    if policy != "noeviction" {
        return Err(QueueError::Evicts {
            policy: policy.to_owned(),
        });
    }
    Ok(ServerInfo {
        version,
        used_memory: field("used_memory").and_then(|n| n.parse().ok()).unwrap_or(0),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn old_or_evicting_servers_are_refused() {
        let info =
            |version, policy| format!("redis_version:{version}\r\nused_memory:7\r\nmaxmemory_policy:{policy}\r\n");
        assert_eq!(check_info(&info("7.0.15", "noeviction")).unwrap().used_memory, 7);
        assert!(check_info(&info("6.2.0", "noeviction")).is_ok());
        assert!(check_info(&info("10.0.0", "noeviction")).is_ok());
        assert!(matches!(
            check_info(&info("6.0.16", "noeviction")),
            Err(QueueError::TooOld { .. })
        ));
        assert!(matches!(
            check_info(&info("7.0.15", "allkeys-lru")),
            Err(QueueError::Evicts { .. })
        ));
    }
}
