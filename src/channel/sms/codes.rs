//! What the text message providers' codes mean (pure): one table each, for answers to a send and for receipts alike.
//!
//! It must never name a class for a code it does not know: the caller knows whether the message can have left.

use crate::channel::ErrorClass;

/// Twilio's error codes, of a refused request or of a message that failed later.
pub(in crate::channel) const fn twilio(code: u32) -> Option<ErrorClass> {
    Some(match code {
        21_211 | 21_610 | 21_612 | 21_614 | 30_003 | 30_004 | 30_005 | 30_006 => ErrorClass::Recipient,
        // 212xx, 216xx, 217xx: the number or service we send from is not ours, or empty, so no message will ever leave.
        20_003
        | 20_404
        | 21_212
        | 21_603
        | 21_606
        | 21_659
        | 21_660
        | 21_703..=21_705
        | 30_002
        | 30_018
        | 30_024
        | 30_032
        | 30_034 => ErrorClass::Credentials,
        20_429 | 21_611 | 30_001 | 30_008 | 30_017 | 30_022 | 30_410 => ErrorClass::Throttled,
        30_010 | 63_038 => ErrorClass::Quota,
        21_408 | 21_602 | 21_617 | 30_007 | 30_011 | 30_019 => ErrorClass::Content,
        _ => return None,
    })
}

/// Whether Twilio says that no message will ever reach this number: it does not exist, or takes none.
pub(in crate::channel) const fn twilio_closes(code: u32) -> bool {
    matches!(code, 21_211 | 21_610 | 21_614 | 30_005 | 30_006)
}

/// Mitake's `statuscode` (of an answer) or `StatusFlag` (of a callback), where it says that a message failed.
pub(in crate::channel) fn mitake(code: &str) -> Option<ErrorClass> {
    Some(match code {
        "6" | "7" | "8" | "v" => ErrorClass::Recipient,
        "5" | "9" | "t" | "u" | "x" | "y" => ErrorClass::Content,
        "a" | "b" | "r" | "*" | "l" | "w" => ErrorClass::Throttled,
        "c" | "d" | "e" | "f" | "h" | "k" | "m" | "n" | "p" => ErrorClass::Credentials,
        "s" => ErrorClass::Quota,
        _ => return None,
    })
}

/// Whether Mitake says that no message will ever reach this number; one that is off today is on tomorrow.
pub(in crate::channel) fn mitake_closes(code: &str) -> bool {
    matches!(code, "6" | "v")
}

/// Whether a refusal's code says that this address is dead, where its class alone does not: a handset that is off, or a route that
/// is closed today, keeps its number.
pub(in crate::channel) fn closes(code: &str) -> bool {
    if let Some(code) = code.strip_prefix("mitake ") {
        return mitake_closes(code);
    }
    let twilio = code.strip_prefix("twilio ").and_then(|code| code.parse().ok());
    twilio.is_none_or(twilio_closes)
}

/// Whether a refusal's code says that the person behind the address said STOP to the provider.
pub(in crate::channel) fn says_stop(code: &str) -> bool {
    code == "twilio 21610"
}
