//! Graph's words: the bodies of its refusals.
//! It exists so that code, subcode and status are paired in one place.
//! It must never repeat a token, a proof or a text the caller sent.

use crate::channel::Channel;
use crate::check::Wrong;
use crate::faults::{FaultKind, Hit};
use crate::http::Answer;

/// A refusal in Graph's shape.
#[derive(Debug)]
pub(crate) struct No {
    status: u16,
    code: u32,
    subcode: u32,
    kind: &'static str,
    message: String,
    /// What WhatsApp adds under `error_data`.
    details: Option<String>,
}

impl No {
    fn new(status: u16, code: u32, subcode: u32, message: &str) -> Self {
        Self {
            status,
            code,
            subcode,
            kind: "OAuthException",
            message: message.to_owned(),
            details: None,
        }
    }

    pub(crate) fn no_token() -> Self {
        Self::new(
            400,
            2500,
            0,
            "An active access token must be used to query information about the current user.",
        )
    }

    pub(crate) fn bad_token() -> Self {
        Self::new(401, 190, 0, "Invalid OAuth access token - Cannot parse access token")
    }

    pub(crate) fn bad_proof() -> Self {
        let mut no = Self::new(400, 100, 0, "Invalid appsecret_proof provided in the API argument");
        no.kind = "GraphMethodException";
        no
    }

    pub(crate) fn no_proof() -> Self {
        let mut no = Self::new(
            400,
            100,
            0,
            "API calls from the server require an appsecret_proof argument",
        );
        no.kind = "GraphMethodException";
        no
    }

    pub(crate) fn forbidden() -> Self {
        Self::new(403, 200, 0, "(#200) The access token may not send for this account")
    }

    pub(crate) fn unsupported() -> Self {
        let message = "Unsupported request. Object does not exist, cannot be loaded due to missing permissions, or does not \
                       support this operation";
        let mut no = Self::new(400, 100, 33, message);
        no.kind = "GraphMethodException";
        no
    }

    /// A parameter that is missing, unknown or of the wrong type.
    pub(crate) fn parameter(channel: Channel, wrong: &[Wrong]) -> Self {
        let first = wrong.first();
        let first = first.map_or(String::new(), |wrong| format!("{}: {}", wrong.property, wrong.message));
        let mut no = Self::new(400, 100, 0, &format!("(#100) Invalid parameter {first}"));
        if channel == Channel::Whatsapp {
            no.details = Some(first);
        }
        no
    }

    pub(crate) fn not_json() -> Self {
        Self::new(400, 100, 0, "(#100) The request body is not valid JSON")
    }

    /// The primary receiver alone may ask this.
    pub(crate) fn not_primary() -> Self {
        Self::new(
            403,
            10,
            2_018_300,
            "(#10) Only the primary receiver of the page can call this",
        )
    }

    /// A template that is not there.
    pub(crate) fn no_template() -> Self {
        Self::new(
            404,
            132_001,
            0,
            "(#132001) Template name does not exist in the translation",
        )
    }

    /// The refusal a pair of numbers stands for, such as `10/2018278` or `131047`.
    fn of(channel: Channel, numbers: &str) -> Option<Self> {
        let (code, subcode) = numbers.split_once('/').unwrap_or((numbers, "0"));
        let (code, subcode) = (code.parse().ok()?, subcode.parse().ok()?);
        let status = if code == 190 { 401 } else { 400 };
        let mut no = Self::new(status, code, subcode, &format!("(#{code}) Refused by a fault"));
        if channel == Channel::Whatsapp {
            no.details = Some("A fault of the sandbox".to_owned());
        }
        Some(no)
    }

    /// Too fast for the account.
    pub(crate) fn too_fast(channel: Channel) -> Self {
        match channel {
            Channel::Whatsapp => Self::new(400, 130_429, 0, "(#130429) Rate limit hit"),
            _ => Self::new(400, 613, 0, "(#613) Calls to this api have exceeded the rate limit."),
        }
    }

    pub(crate) fn write(&self, answer: &mut Answer) {
        let mut error = serde_json::json!({
            "message": self.message, "type": self.kind, "code": self.code, "fbtrace_id": "AsandboxTraceId0000000",
        });
        if let Some(fields) = error.as_object_mut() {
            if self.subcode != 0 {
                fields.insert("error_subcode".to_owned(), self.subcode.into());
            }
            if let Some(details) = &self.details {
                let data = serde_json::json!({"messaging_product": "whatsapp", "details": details});
                fields.insert("error_data".to_owned(), data);
            }
        }
        answer.set(self.status, &serde_json::json!({ "error": error }).to_string());
    }
}

/// Writes what a fault answers, if it dictates an answer at all.
pub(crate) fn write_fault(channel: Channel, hit: &Hit, answer: &mut Answer) {
    let is_page = channel != Channel::Whatsapp;
    let broken = |status| {
        No::new(
            status,
            2,
            0,
            "An unexpected error has occurred. Please retry your request later.",
        )
    };
    let no = match hit.kind {
        Some(FaultKind::Throttled) => No::too_fast(channel),
        Some(FaultKind::Quota) => No::new(400, 131_042, 0, "(#131042) Business eligibility payment issue"),
        Some(FaultKind::ServerError | FaultKind::ServerErrorAfter) => broken(500),
        Some(FaultKind::Unavailable) => broken(503),
        Some(FaultKind::InvalidRecipient) if is_page => No::new(400, 100, 2_018_001, "(#100) No matching user found"),
        Some(FaultKind::InvalidRecipient) => No::new(400, 131_026, 0, "(#131026) Message undeliverable"),
        Some(FaultKind::BadCredentials) => No::bad_token(),
        Some(FaultKind::Reply | FaultKind::ReplyAfter) => {
            let said = hit.message.as_deref();
            match said.and_then(|numbers| No::of(channel, numbers)) {
                Some(mut no) => {
                    no.status = hit.code;
                    no
                }
                None => return answer.set(hit.code, said.unwrap_or("{}")),
            }
        }
        Some(
            FaultKind::ResetBefore
            | FaultKind::ResetAfter
            | FaultKind::Hang
            | FaultKind::HangAfter
            | FaultKind::Truncated
            | FaultKind::Garbage
            | FaultKind::Delay,
        )
        | None => return,
    };
    no.write(answer);
}
