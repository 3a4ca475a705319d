//! Mail submission: a small SMTP server that is strict about order, syntax and sizes.
//! It exists so that every way a mail can fail, at every stage, can be had on demand, and every accepted mail counted.
//! It must never relay anything, and never take mail without a login once a login is registered.

mod commands;
mod envelope;
mod mail;
mod replies;
mod session;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::accounts::{BadAccount, SmtpAccount};
use crate::traffic::Pace;

pub(crate) use crate::smtp::session::serve;

/// One login.
#[derive(Default)]
pub(crate) struct Login {
    password: String,
    pace: Pace,
}

/// All logins.
#[derive(Default)]
pub(crate) struct SmtpState {
    logins: RwLock<HashMap<String, Arc<Login>>>,
    /// Paces callers without a login, when none is required.
    anonymous: Arc<Login>,
}

impl SmtpState {
    pub(crate) fn register(&self, account: SmtpAccount) -> Result<(), BadAccount> {
        if account.user.is_empty() || account.password.is_empty() {
            return Err(BadAccount::Empty);
        }
        let login = Arc::new(Login {
            password: account.password,
            pace: Pace::default(),
        });
        self.logins
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(account.user, login);
        Ok(())
    }

    /// Forgets a user; false when it was not known. Sessions that are already logged in go on.
    pub(crate) fn revoke(&self, user: &str) -> bool {
        self.logins
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(user)
            .is_some()
    }

    fn requires_login(&self) -> bool {
        !self.logins.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn login(&self, user: &str, password: &str) -> Option<Arc<Login>> {
        let logins = self.logins.read().unwrap_or_else(PoisonError::into_inner);
        logins.get(user).filter(|login| login.password == password).cloned()
    }

    fn anonymous(&self) -> Arc<Login> {
        Arc::clone(&self.anonymous)
    }

    pub(crate) fn peak(&self) -> u64 {
        let logins = self.logins.read().unwrap_or_else(PoisonError::into_inner);
        logins
            .values()
            .map(|login| login.pace.peak())
            .chain([self.anonymous.pace.peak()])
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn clear(&self) {
        self.anonymous.pace.clear();
        for login in self.logins.read().unwrap_or_else(PoisonError::into_inner).values() {
            login.pace.clear();
        }
    }
}
