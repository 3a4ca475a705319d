//! The integration tests: one binary, a module per subject, on a real Redis and a real PostgreSQL.

mod limit;
mod limit_scripts;
mod redis_server;
