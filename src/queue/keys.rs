//! The names of the queue's keys in Redis. This list is the whole of what the queue keeps there.

/// The keys of one kind.
#[derive(Debug, Clone)]
pub(crate) struct KindKeys {
    /// List of entries that may run now; producers push at its tail.
    pub(crate) ready: String,
    /// Sorted set of entries by the time they become ready, in milliseconds.
    pub(crate) due: String,
    /// Sorted set of the tags of running jobs by the end of their lease, in milliseconds.
    pub(crate) lease: String,
    /// Hash of running jobs: tag to entry.
    pub(crate) run: String,
}

impl KindKeys {
    pub(crate) fn new(prefix: &str, kind: &str) -> Self {
        Self {
            ready: format!("{prefix}:ready:{kind}"),
            due: format!("{prefix}:due:{kind}"),
            lease: format!("{prefix}:lease:{kind}"),
            run: format!("{prefix}:run:{kind}"),
        }
    }
}

/// Hash of dead jobs that are not yet rows in Postgres: reference to record.
pub(crate) fn dead(prefix: &str) -> String {
    format!("{prefix}:dead")
}

/// Hash of what running jobs said last that they were about to do, by tag. Only those that run for a while, or have taken
/// down a worker before, say anything.
pub(crate) fn doing(prefix: &str) -> String {
    format!("{prefix}:doing")
}

/// Channel on which a producer says that something is ready.
pub(crate) fn wake(prefix: &str) -> String {
    format!("{prefix}:wake")
}

/// What the names of held `unique` keys begin with; the kind, a colon and the key follow, as `claim.lua` writes them, too.
pub(crate) fn held(prefix: &str) -> String {
    format!("{prefix}:unique:")
}

/// String held while a job with this `unique` key waits; its value is that job's id.
pub(crate) fn held_by(prefix: &str, kind: &str, unique: &str) -> String {
    format!("{}{kind}:{unique}", held(prefix))
}
