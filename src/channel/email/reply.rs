//! What a mail server's words mean (pure).
//!
//! Why by stage: the same 550 says "your account" at MAIL, "this mailbox" at RCPT and "this text" after the body. And
//! only after the body was written can a silence mean that the message went out.

use crate::channel::outcome::{ErrorClass, Refusal};

/// How far a message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Resolve, connect, TLS.
    Connect,
    /// Greeting, EHLO.
    Hello,
    /// Asking for TLS.
    Starttls,
    Auth,
    Reset,
    Mail,
    Rcpt,
    /// Asking to send the body.
    Data,
    /// The body was written, in part or whole.
    Body,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Hello => "hello",
            Self::Starttls => "starttls",
            Self::Auth => "auth",
            Self::Reset => "reset",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
        }
    }
}

/// No usable answer: a time-out, a lost connection, or words that are not SMTP.
pub(super) fn silence(stage: Stage, what: &str) -> Refusal {
    let class = match stage {
        Stage::Body => ErrorClass::Uncertain,
        Stage::Connect
        | Stage::Hello
        | Stage::Starttls
        | Stage::Auth
        | Stage::Reset
        | Stage::Mail
        | Stage::Rcpt
        | Stage::Data => ErrorClass::Unreachable,
    };
    Refusal::new(class, format!("{}_{what}", stage.name()))
}

/// Whether somebody else than the relay may be at the other end: a person must find that in the log.
pub(super) fn is_distrust(refusal: &Refusal) -> bool {
    matches!(
        refusal.code.as_str(),
        "connect_certificate" | "hello_injected" | "starttls_injected"
    )
}

/// A reply of the 4xx or 5xx kind, with its enhanced code (RFC 3463) where the server gives one.
pub(super) fn refusal(stage: Stage, code: u16, text: &str) -> Refusal {
    let enhanced = enhanced(text);
    let class = class(stage, code, enhanced);
    let name = stage.name();
    let code = match enhanced {
        Some((class, subject, detail)) => format!("{name} {code} {class}.{subject}.{detail}"),
        None => format!("{name} {code}"),
    };
    Refusal::new(class, code)
}

fn class(stage: Stage, code: u16, enhanced: Option<(u16, u16, u16)>) -> ErrorClass {
    let permanent = code >= 500;
    let subject = enhanced.map(|(_, subject, _)| subject);
    // X.1.7 and X.1.8 are about the sender's address. Postfix says so only when it hears the recipient's, others after the
    // body: no customer can help it, and none must be suppressed for it.
    let about_us = matches!(enhanced, Some((_, 1, 7 | 8)));
    match stage {
        // It does not know the command, which is like not offering it: waiting does not help. Any other word may be that of
        // one bad node behind a balancer, and stops no sender until a person comes.
        Stage::Starttls if matches!(code, 500 | 501 | 502 | 504) => ErrorClass::Credentials,
        Stage::Auth | Stage::Mail if permanent => ErrorClass::Credentials,
        Stage::Connect | Stage::Hello | Stage::Starttls | Stage::Reset => ErrorClass::Unreachable,
        Stage::Rcpt | Stage::Data | Stage::Body if about_us && permanent => ErrorClass::Credentials,
        Stage::Rcpt if about_us => ErrorClass::Throttled,
        // X.1.x speaks of the address (no such domain), X.2.x of the mailbox (full, disabled), even when it says "for now":
        // waiting would stop the sender for one customer's sake, for a mistyped domain until the deadline.
        Stage::Rcpt if matches!(subject, Some(1 | 2)) => ErrorClass::Recipient,
        // X.7.x is policy: the relay does not trust us. Suppressing customers for that would be wrong.
        Stage::Rcpt | Stage::Body if permanent && (subject == Some(7) || code == 530) => ErrorClass::Credentials,
        Stage::Rcpt if permanent => ErrorClass::Recipient,
        Stage::Body if permanent && matches!(subject, Some(1 | 2)) => ErrorClass::Recipient,
        Stage::Data | Stage::Body if permanent => ErrorClass::Content,
        Stage::Auth | Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Body => ErrorClass::Throttled,
    }
}

/// The `5.1.1` at the start of a reply's text.
fn enhanced(text: &str) -> Option<(u16, u16, u16)> {
    let mut numbers = text.split_whitespace().next()?.split('.');
    let mut next = || numbers.next()?.parse::<u16>().ok().filter(|n| *n < 1_000);
    let (class, subject, detail) = (next()?, next()?, next()?);
    (matches!(class, 2 | 4 | 5) && numbers.next().is_none()).then_some((class, subject, detail))
}

/// The queue id in a reply such as `2.0.0 Ok: queued as 4F2A1`, never anything that may be an address.
pub(super) fn queue_id(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("queued as ")?;
    let id = after.split_whitespace().next()?.trim_end_matches(['.', ';', ',']);
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (id.len() <= 64 && id.chars().all(sound)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_gives_a_refusal_its_own_meaning() {
        use ErrorClass::{Content, Credentials, Recipient, Throttled, Unreachable};
        for (stage, code, text, expected) in [
            (Stage::Hello, 421, "4.3.2 busy", Unreachable),
            (Stage::Hello, 554, "no service", Unreachable),
            (Stage::Starttls, 454, "4.7.0 TLS not available now", Unreachable),
            (Stage::Starttls, 421, "4.3.2 closing", Unreachable),
            (Stage::Starttls, 500, "5.5.2 what", Credentials),
            (Stage::Starttls, 501, "5.5.4 no arguments", Credentials),
            (Stage::Starttls, 502, "5.5.1 not implemented", Credentials),
            (Stage::Starttls, 503, "5.5.1 not now", Unreachable),
            (Stage::Starttls, 504, "5.5.4 not implemented", Credentials),
            (Stage::Starttls, 530, "5.7.0 not you", Unreachable),
            (Stage::Starttls, 550, "5.7.1 not you", Unreachable),
            (Stage::Starttls, 554, "5.3.0 TLS engine broken", Unreachable),
            (Stage::Auth, 535, "5.7.8 bad password", Credentials),
            (Stage::Auth, 454, "4.7.0 try later", Throttled),
            (Stage::Mail, 550, "5.1.8 sender unknown", Credentials),
            (Stage::Mail, 451, "4.3.0 busy", Throttled),
            (Stage::Rcpt, 550, "5.1.1 user unknown", Recipient),
            (Stage::Rcpt, 550, "no such user", Recipient),
            (Stage::Rcpt, 553, "bad mailbox name", Recipient),
            (Stage::Rcpt, 554, "5.7.1 relay access denied", Credentials),
            (Stage::Rcpt, 530, "5.5.1 authenticate first", Credentials),
            (Stage::Rcpt, 452, "4.2.2 mailbox full", Recipient),
            (Stage::Rcpt, 450, "4.1.2 domain not found", Recipient),
            (Stage::Rcpt, 450, "MI:SPB sent too much", Throttled),
            (Stage::Rcpt, 450, "4.1.8 sender's domain not found", Throttled),
            (Stage::Rcpt, 550, "5.1.8 sender rejected", Credentials),
            (Stage::Body, 550, "5.1.8 bad outbound sender", Credentials),
            (Stage::Rcpt, 450, "4.7.1 greylisted", Throttled),
            (Stage::Rcpt, 452, "too many recipients", Throttled),
            (Stage::Data, 451, "4.3.0 busy", Throttled),
            (Stage::Data, 554, "no valid recipients", Content),
            (Stage::Body, 552, "5.3.4 too big", Content),
            (Stage::Body, 554, "spam", Content),
            (Stage::Body, 550, "5.7.26 unauthenticated", Credentials),
            (Stage::Body, 550, "5.1.1 user unknown", Recipient),
            (Stage::Body, 421, "4.7.0 slow down", Throttled),
        ] {
            assert_eq!(refusal(stage, code, text).class, expected, "{stage:?} {code} {text}");
        }
    }

    #[test]
    fn the_code_holds_numbers_and_never_the_servers_text() {
        assert_eq!(
            refusal(Stage::Rcpt, 550, "5.1.1 <amy@shop.example> unknown").code,
            "rcpt 550 5.1.1"
        );
        assert_eq!(refusal(Stage::Rcpt, 550, "<amy@shop.example> unknown").code, "rcpt 550");
        assert_eq!(refusal(Stage::Rcpt, 550, "5.1.1.1 x").code, "rcpt 550");
    }

    #[test]
    fn silence_is_uncertain_only_once_the_body_was_written() {
        for stage in [
            Stage::Connect,
            Stage::Hello,
            Stage::Starttls,
            Stage::Auth,
            Stage::Mail,
            Stage::Rcpt,
            Stage::Data,
        ] {
            assert_eq!(silence(stage, "timeout").class, ErrorClass::Unreachable);
        }
        let refusal = silence(Stage::Body, "timeout");
        assert_eq!(
            (refusal.class, refusal.code.as_str()),
            (ErrorClass::Uncertain, "body_timeout")
        );
    }

    #[test]
    fn a_relay_that_may_be_somebody_else_is_told_from_one_that_is_away() {
        for (stage, what, expected) in [
            (Stage::Connect, "certificate", true),
            (Stage::Hello, "injected", true),
            (Stage::Starttls, "injected", true),
            (Stage::Connect, "lost", false),
            (Stage::Starttls, "protocol", false),
        ] {
            assert_eq!(is_distrust(&silence(stage, what)), expected, "{stage:?} {what}");
        }
    }

    #[test]
    fn a_queue_id_is_taken_where_it_is_one() {
        assert_eq!(queue_id("2.0.0 Ok: queued as 4F2A1-x."), Some("4F2A1-x"));
        assert_eq!(queue_id("ok queued as amy@shop.example"), None);
        assert_eq!(queue_id("2.0.0 fine"), None);
    }
}
