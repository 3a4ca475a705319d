//! LINE Official Accounts: tokens, monthly quota, retry keys, reply tokens and pace.
//! It exists so that everything LINE counts "per channel" is counted per channel id, whichever token a caller used.
//! It must never compare or print a token beyond looking it up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::accounts::{BadAccount, LINE_CHANNEL_SECRET, LineAccount};
use crate::line::retry_keys::RetryKeys;
use crate::mix::{mix, push_hex};
use crate::traffic::Pace;

/// How long a reply token may be used after it was issued.
const REPLY_TOKEN_LIFETIME: Duration = Duration::from_mins(1);

/// One Official Account.
pub(crate) struct Official {
    pub(crate) channel_id: String,
    pub(crate) bot_user_id: String,
    pub(crate) display_name: String,
    pub(crate) channel_secret: String,
    /// Where webhooks go, and whether they do.
    webhook: Mutex<Option<(String, bool)>>,
    /// `u64::MAX` is unlimited.
    quota: AtomicU64,
    used: AtomicU64,
    pub(crate) keys: RetryKeys,
    /// Push, multicast, reply: LINE limits each endpoint on its own.
    pub(crate) paces: [Pace; 3],
}

impl Official {
    /// Takes `messages` from the month's quota; false when they do not all fit.
    pub(crate) fn spend(&self, messages: u64) -> bool {
        let quota = self.quota.load(Ordering::Relaxed);
        let take = |used: u64| used.checked_add(messages).filter(|used| *used <= quota);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    /// Where webhooks go, and whether they do.
    pub(crate) fn webhook(&self) -> Option<(String, bool)> {
        self.webhook.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_webhook(&self, endpoint: String, active: bool) {
        *self.webhook.lock().unwrap_or_else(PoisonError::into_inner) = Some((endpoint, active));
    }

    pub(crate) fn quota(&self) -> Option<u64> {
        Some(self.quota.load(Ordering::Relaxed)).filter(|quota| *quota != u64::MAX)
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

struct ReplyToken {
    user_id: String,
    issued: Duration,
}

/// All accounts and what LINE numbers.
pub(crate) struct LineState {
    seed: u64,
    tokens: RwLock<HashMap<String, Arc<Official>>>,
    channels: Mutex<HashMap<String, Arc<Official>>>,
    reply_tokens: Mutex<HashMap<String, ReplyToken>>,
    requests: AtomicU32,
    messages: AtomicU32,
}

impl LineState {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            tokens: RwLock::default(),
            channels: Mutex::default(),
            reply_tokens: Mutex::default(),
            requests: AtomicU32::new(0),
            messages: AtomicU32::new(0),
        }
    }

    pub(crate) fn register(&self, account: LineAccount) -> Result<(), BadAccount> {
        if account.access_token.is_empty() || account.channel_id.is_empty() {
            return Err(BadAccount::Empty);
        }
        if !is_user_id(&account.bot_user_id) {
            return Err(BadAccount::BotUserId);
        }
        let quota = account.monthly_quota.unwrap_or(u64::MAX);
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let official = channels.entry(account.channel_id.clone()).or_insert_with(|| {
            Arc::new(Official {
                channel_id: account.channel_id,
                bot_user_id: account.bot_user_id,
                display_name: account.display_name,
                channel_secret: account.channel_secret.unwrap_or_else(|| LINE_CHANNEL_SECRET.to_owned()),
                webhook: Mutex::default(),
                quota: AtomicU64::new(quota),
                used: AtomicU64::new(0),
                keys: RetryKeys::new(),
                paces: Default::default(),
            })
        });
        official.quota.store(quota, Ordering::Relaxed);
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(account.access_token, Arc::clone(official));
        Ok(())
    }

    /// Forgets a token; false when it was not known.
    pub(crate) fn revoke(&self, token: &str) -> bool {
        self.tokens
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(token)
            .is_some()
    }

    pub(crate) fn official(&self, token: &str) -> Option<Arc<Official>> {
        self.tokens
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(token)
            .cloned()
    }

    /// A new reply token for `user_id`, as a webhook event would carry.
    pub(crate) fn issue_reply_token(&self, user_id: &str, now: Duration) -> String {
        let mut token = String::with_capacity(32);
        let serial = u64::from(self.next_request());
        push_hex(&mut token, mix(self.seed ^ mix(serial)));
        push_hex(&mut token, mix(serial));
        let issued = ReplyToken {
            user_id: user_id.to_owned(),
            issued: now,
        };
        self.reply_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.clone(), issued);
        token
    }

    /// The user a reply token stands for, if it is still fresh; the token stays usable.
    pub(crate) fn reply_user(&self, token: &str, now: Duration) -> Option<String> {
        let tokens = self.reply_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tokens.get(token)?;
        (now.saturating_sub(known.issued) <= REPLY_TOKEN_LIFETIME).then(|| known.user_id.clone())
    }

    /// Uses a reply token up; false when someone else already did.
    pub(crate) fn use_reply_token(&self, token: &str) -> bool {
        self.reply_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(token)
            .is_some()
    }

    pub(crate) fn next_request(&self) -> u32 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn next_messages(&self, count: u32) -> u32 {
        self.messages.fetch_add(count, Ordering::Relaxed)
    }

    /// Appends the `x-line-request-id` of a request: a UUID that is a function of its serial.
    pub(crate) fn push_request_id(&self, out: &mut String, serial: u32) {
        let serial = u64::from(serial);
        let (high, low) = (mix(self.seed ^ mix(serial)), mix(serial ^ 0x11ce));
        let mut hex = String::with_capacity(32);
        push_hex(&mut hex, high);
        push_hex(&mut hex, low);
        for (at, digit) in hex.char_indices() {
            if matches!(at, 8 | 12 | 16 | 20) {
                out.push('-');
            }
            out.push(digit);
        }
    }

    pub(crate) fn peak(&self) -> u64 {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels
            .values()
            .flat_map(|official| &official.paces)
            .map(Pace::peak)
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn clear(&self) {
        self.reply_tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for official in self.channels.lock().unwrap_or_else(PoisonError::into_inner).values() {
            official.used.store(0, Ordering::Relaxed);
            official.keys.clear();
            official.paces.iter().for_each(Pace::clear);
        }
    }
}

/// True for `U` and 32 lowercase hexadecimal digits.
pub(crate) fn is_user_id(text: &str) -> bool {
    text.strip_prefix('U')
        .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}
