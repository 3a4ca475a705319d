//! An entry: a job text as it lies in Redis, with the counts it has gathered. Pure.
//!
//! A producer pushes bare JSON. From the first time a job comes back (retried, delayed, taken over, given back) a header
//! line stands before that text: one byte no JSON can begin with, the counts, a line break. The producer's bytes are
//! never rewritten, so what ends up in the dead set is exactly what was pushed.

/// The first byte of an entry that has a header.
const MARK: u8 = 0x01;
/// The longest header line. A hostile text must not make every claim scan a megabyte for a line break.
pub(crate) const MAX_HEADER_BYTES: usize = 512;

/// What a job has been through. Attempts, crashes and snoozes are counted apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct History {
    /// Attempts that ended in an error.
    pub(crate) attempts: u32,
    /// Times a worker's lease on it ran out.
    pub(crate) crashes: u32,
    /// Times it asked to be woken later.
    pub(crate) snoozes: u32,
    /// When it was first claimed, in milliseconds of Redis' clock.
    pub(crate) first_ms: u64,
    /// The tag of its first claim: what tells two pushes of the same text apart.
    pub(crate) reference: String,
    /// The tag of the claim that was lost last; it begins with the id of the worker that held it. Behind an `@` stands the
    /// last word of that claim's handler, if it left one.
    pub(crate) lost_tag: Option<String>,
    /// Whether the entry had no header: nobody has looked at it before.
    pub(crate) fresh: bool,
}

impl History {
    /// The header line. `claim.lua` writes the same form when it takes a job over.
    pub(crate) fn header(&self) -> String {
        format!(
            "{}{} {} {} {} {} {}\n",
            char::from(MARK),
            self.attempts,
            self.crashes,
            self.snoozes,
            self.first_ms,
            self.reference,
            self.lost_tag.as_deref().unwrap_or("-"),
        )
    }
}

/// The most characters of a handler's word; `claim.lua` cuts at the same length.
const WORD_CHARS: usize = 80;

/// What a handler is about to do, in a form that fits into a header: visible ASCII without blanks.
pub(crate) fn word(text: &str) -> String {
    text.chars()
        .take(WORD_CHARS)
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .collect()
}

impl History {
    /// The claim that was lost last, for people: its tag, and what its handler was about to do.
    pub(crate) fn last_claim(&self) -> String {
        let lost = self.lost_tag.as_deref().unwrap_or("unknown");
        match lost.split_once('@') {
            Some((tag, word)) => format!("the last claim was {tag}, about to {}", word.replace('_', " ")),
            None => format!("the last claim was {lost}"),
        }
    }
}

/// Splits an entry that was claimed under `tag` into its history and the producer's text.
///
/// A header that cannot be read is taken for a producer's text, which then fails to parse and ends in the dead set with
/// its bytes kept: nobody can make a worker stumble by forging one, nor claim to have been first in a time to come.
pub(crate) fn split<'a>(entry: &'a [u8], tag: &str, now_ms: u64) -> (History, &'a [u8]) {
    if let Some((mut history, text)) = read_header(entry) {
        history.first_ms = history.first_ms.min(now_ms);
        return (history, text);
    }
    let history = History {
        first_ms: now_ms,
        reference: tag.to_owned(),
        fresh: true,
        ..History::default()
    };
    (history, entry)
}

fn read_header(entry: &[u8]) -> Option<(History, &[u8])> {
    let rest = entry.strip_prefix(&[MARK])?;
    let end = rest.iter().take(MAX_HEADER_BYTES).position(|byte| *byte == b'\n')?;
    let (line, text) = rest.split_at(end);
    // What we write is visible and fits into a row; a forged reference with a NUL in it would not.
    if !line.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        return None;
    }
    let mut fields = std::str::from_utf8(line).ok()?.split(' ');
    let history = History {
        attempts: fields.next()?.parse().ok()?,
        crashes: fields.next()?.parse().ok()?,
        snoozes: fields.next()?.parse().ok()?,
        first_ms: fields.next()?.parse().ok()?,
        reference: fields.next().filter(|s| !s.is_empty())?.to_owned(),
        lost_tag: match fields.next()? {
            "-" => None,
            tag => Some(tag.to_owned()),
        },
        fresh: false,
    };
    if fields.next().is_some() {
        return None;
    }
    Some((history, text.get(1..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_and_its_text_come_apart_again() {
        let history = History {
            attempts: 2,
            crashes: 1,
            snoozes: 7,
            first_ms: 1_763_757_485_000,
            reference: "w1:9".to_owned(),
            lost_tag: Some("w0:3".to_owned()),
            fresh: false,
        };
        let now_ms = history.first_ms;
        let mut entry = history.header().into_bytes();
        entry.extend_from_slice(b"{\"args\":\n1}");
        assert_eq!(split(&entry, "w2:1", now_ms), (history, b"{\"args\":\n1}".as_slice()));
    }

    #[test]
    fn the_last_word_of_a_lost_claim_is_told() {
        let told = |lost: &str| {
            let lost_tag = Some(lost.to_owned());
            History {
                lost_tag,
                ..History::default()
            }
            .last_claim()
        };
        assert_eq!(told("w0:3"), "the last claim was w0:3");
        let lost = format!("w0:3@{}", word("plan a\nchunk"));
        assert_eq!(told(&lost), "the last claim was w0:3, about to plan a chunk");
        assert_eq!(word(&"字".repeat(100)).len(), WORD_CHARS);
    }

    proptest! {
        #[test]
        fn any_bytes_are_split_without_loss(entry in proptest::collection::vec(any::<u8>(), 0..200), marked in any::<bool>()) {
            let mut bytes = entry;
            if marked {
                bytes.insert(0, MARK);
            }
            let (_, text) = split(&bytes, "w:1", 1);
            prop_assert!(bytes.ends_with(text));
        }
    }
}
