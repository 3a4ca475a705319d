//! SMTP replies: code and text, and what each fault says.
//! It exists so that every reply the server can give stands in one place.
//! It must never carry an address or a line the client sent.

use std::borrow::Cow;

use crate::faults::{FaultKind, Hit};

/// The largest mail, in bytes, as announced by SIZE.
pub(crate) const MAX_MAIL_BYTES: usize = 10 * 1024 * 1024;

/// One reply; lines after the first make it a multi-line one.
pub(crate) struct Reply {
    pub(crate) code: u16,
    text: Cow<'static, str>,
}

impl Reply {
    pub(crate) const fn new(code: u16, text: &'static str) -> Self {
        Self {
            code,
            text: Cow::Borrowed(text),
        }
    }

    pub(crate) fn owned(code: u16, text: String) -> Self {
        Self {
            code,
            text: Cow::Owned(text),
        }
    }

    /// The reply as it goes over the wire.
    pub(crate) fn wire(&self) -> String {
        let mut out = String::with_capacity(self.text.len() + 8);
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            out.push_str(&self.code.to_string());
            out.push(if lines.peek().is_some() { '-' } else { ' ' });
            out.push_str(line);
            out.push_str("\r\n");
        }
        out
    }
}

pub(crate) const GREETING: Reply = Reply::new(220, "sandbox.invalid ESMTP Carillon sandbox");
pub(crate) const OK: Reply = Reply::new(250, "2.0.0 Ok");
pub(crate) const BYE: Reply = Reply::new(221, "2.0.0 Bye");
pub(crate) const START_DATA: Reply = Reply::new(354, "End data with <CR><LF>.<CR><LF>");
pub(crate) const LOGGED_IN: Reply = Reply::new(235, "2.7.0 Authentication successful");
pub(crate) const BAD_LOGIN: Reply = Reply::new(535, "5.7.8 Authentication credentials invalid");
pub(crate) const BAD_BASE64: Reply = Reply::new(501, "5.5.2 Cannot decode the response");
pub(crate) const AUTH_REQUIRED: Reply = Reply::new(530, "5.7.0 Authentication required");
pub(crate) const BAD_SEQUENCE: Reply = Reply::new(503, "5.5.1 Bad sequence of commands");
pub(crate) const BAD_SYNTAX: Reply = Reply::new(501, "5.5.4 Syntax error in parameters or arguments");
pub(crate) const BAD_ADDRESS: Reply = Reply::new(501, "5.1.3 Bad address syntax");
pub(crate) const BAD_PARAMETER: Reply = Reply::new(555, "5.5.4 Parameter not recognised");
pub(crate) const UNKNOWN: Reply = Reply::new(500, "5.5.2 Command not recognised");
pub(crate) const TOO_LONG: Reply = Reply::new(500, "5.5.2 Line too long");
pub(crate) const BARE_NEWLINE: Reply = Reply::new(500, "5.5.2 Lines must end with <CR><LF>");
pub(crate) const TOO_BIG: Reply = Reply::new(552, "5.3.4 Message size exceeds fixed limit");
pub(crate) const TOO_MANY: Reply = Reply::new(452, "4.5.3 Too many recipients");
pub(crate) const RATE: Reply = Reply::new(451, "4.7.1 Rate limit exceeded, try again later");

/// What a fault replies; `None` when it dictates no reply (cut, hang, garbage, delay).
pub(crate) fn of_fault(hit: &Hit) -> Option<Reply> {
    match hit.kind? {
        FaultKind::Throttled => Some(RATE),
        FaultKind::Quota => Some(Reply::new(452, "4.2.2 Mailbox full")),
        FaultKind::ServerError | FaultKind::ServerErrorAfter => {
            Some(Reply::new(451, "4.3.0 Local error in processing"))
        }
        FaultKind::Unavailable => Some(Reply::new(
            421,
            "4.3.2 Service not available, closing transmission channel",
        )),
        FaultKind::InvalidRecipient => Some(Reply::new(550, "5.1.1 User unknown")),
        FaultKind::BadCredentials => Some(BAD_LOGIN),
        FaultKind::Reply | FaultKind::ReplyAfter => Some(Reply::owned(
            hit.code,
            hit.message.as_deref().unwrap_or("Refused").to_owned(),
        )),
        FaultKind::ResetBefore
        | FaultKind::ResetAfter
        | FaultKind::Hang
        | FaultKind::HangAfter
        | FaultKind::Truncated
        | FaultKind::Garbage
        | FaultKind::Delay => None,
    }
}
