//! What can go wrong between a producer and the queue.

use carillon_jobs::ContractError;

/// An error of the queue. None of them holds an address, a password or a payload.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The address of Redis cannot be understood.
    #[error("the address of Redis must look like redis://host:6379/0 or rediss://…")]
    Address,
    /// Redis did not answer, or answered with an error. The job may or may not have been queued.
    #[error("Redis: {}", describe(.0))]
    Redis(#[from] redis::RedisError),
    /// The job breaks the contract.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The table of dead jobs could not be read or written.
    #[error("the table of dead jobs: {0}")]
    Database(#[from] sqlx::Error),
    /// The server may throw jobs away when its memory is full.
    #[error(
        "Redis has maxmemory-policy {policy}, which may throw away queued work: set it to noeviction \
         (redis-cli config set maxmemory-policy noeviction, or in your provider's settings)"
    )]
    Evicts {
        /// The policy it has.
        policy: String,
    },
    /// The server lacks commands the queue needs.
    #[error("Redis {version} is too old: use 6.2 or later")]
    TooOld {
        /// The version it has.
        version: String,
    },
}

impl QueueError {
    /// Whether Redis answers and will not have us: waiting does not help.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Redis(error) => {
                error.kind() == redis::ErrorKind::AuthenticationFailed
                    || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
            }
            Self::Address | Self::Contract(_) | Self::Database(_) | Self::Evicts { .. } | Self::TooOld { .. } => false,
        }
    }
}

/// The kind of a Redis error and the code a server gave, without the detail: that may quote a key or an address.
pub(crate) fn describe(error: &redis::RedisError) -> String {
    match error.code() {
        Some(code) => format!("{code} error"),
        None if error.is_timeout() => "no answer in time".to_owned(),
        None if error.is_connection_refusal() => "connection refused".to_owned(),
        None if error.is_io_error() => "connection lost".to_owned(),
        None => format!("{:?}", error.kind()),
    }
}
