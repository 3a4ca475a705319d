//! Google's words: the bodies of FCM's refusals.
//! It exists so that status, `status` and `errorCode` are paired in one place.
//! It must never repeat a token or a text the caller sent.

use crate::check::Wrong;
use crate::faults::{FaultKind, Hit};
use crate::http::Answer;

/// A refusal in Google's shape.
pub(crate) struct No {
    code: u16,
    status: &'static str,
    message: String,
    /// `errorCode` of the `FcmError` detail, or the field violations of a `BadRequest` detail.
    detail: Detail,
}

pub(crate) enum Detail {
    None,
    Fcm(&'static str),
    Fields(Vec<Wrong>),
}

impl No {
    pub(crate) fn new(code: u16, status: &'static str, message: &str, detail: Detail) -> Self {
        Self {
            code,
            status,
            message: message.to_owned(),
            detail,
        }
    }

    /// The refusal an FCM `errorCode` stands for.
    pub(crate) fn of(error: &'static str) -> Self {
        let (code, status, message) = match error {
            "UNREGISTERED" => (404, "NOT_FOUND", "Requested entity was not found."),
            "INVALID_ARGUMENT" => (
                400,
                "INVALID_ARGUMENT",
                "The registration token is not a valid FCM registration token",
            ),
            "SENDER_ID_MISMATCH" => (403, "PERMISSION_DENIED", "SenderId mismatch"),
            "QUOTA_EXCEEDED" => (429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric."),
            "UNAVAILABLE" => (503, "UNAVAILABLE", "The service is currently unavailable."),
            "THIRD_PARTY_AUTH_ERROR" => (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
            _ => (500, "INTERNAL", "Internal error encountered."),
        };
        Self::new(code, status, message, Detail::Fcm(error))
    }

    pub(crate) fn unauthenticated() -> Self {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or \
                       other valid authentication credential.";
        Self::new(401, "UNAUTHENTICATED", message, Detail::None)
    }

    pub(crate) fn write(&self, answer: &mut Answer) {
        let mut error = serde_json::json!({"code": self.code, "message": self.message, "status": self.status});
        let detail = match &self.detail {
            Detail::None => None,
            Detail::Fcm(code) => Some(serde_json::json!({
                "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code,
            })),
            Detail::Fields(wrong) => {
                let violations: Vec<serde_json::Value> = wrong
                    .iter()
                    .map(|wrong| serde_json::json!({"field": wrong.property, "description": wrong.message}))
                    .collect();
                Some(serde_json::json!({
                    "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations,
                }))
            }
        };
        if let (Some(detail), Some(error)) = (detail, error.as_object_mut()) {
            error.insert("details".to_owned(), serde_json::Value::Array(vec![detail]));
        }
        answer.set(self.code, &serde_json::json!({"error": error}).to_string());
    }
}

/// Writes what a fault answers, if it dictates an answer at all.
pub(crate) fn write_fault(hit: &Hit, answer: &mut Answer) {
    match hit.kind {
        Some(FaultKind::Throttled | FaultKind::Quota) => No::of("QUOTA_EXCEEDED").write(answer),
        Some(FaultKind::ServerError | FaultKind::ServerErrorAfter) => {
            No::of("INTERNAL").write(answer);
        }
        Some(FaultKind::Unavailable) => No::of("UNAVAILABLE").write(answer),
        Some(FaultKind::InvalidRecipient) => No::of("UNREGISTERED").write(answer),
        Some(FaultKind::BadCredentials) => No::unauthenticated().write(answer),
        Some(FaultKind::Reply | FaultKind::ReplyAfter) => match hit.message.as_deref() {
            Some("SENDER_ID_MISMATCH") => No::of("SENDER_ID_MISMATCH").write(answer),
            Some("INVALID_ARGUMENT") => No::of("INVALID_ARGUMENT").write(answer),
            Some("THIRD_PARTY_AUTH_ERROR") => No::of("THIRD_PARTY_AUTH_ERROR").write(answer),
            body => answer.set(hit.code, body.unwrap_or("{}")),
        },
        Some(
            FaultKind::ResetBefore
            | FaultKind::ResetAfter
            | FaultKind::Hang
            | FaultKind::HangAfter
            | FaultKind::Truncated
            | FaultKind::Garbage
            | FaultKind::Delay,
        )
        | None => {}
    }
}
