//! Whatever bytes come, the parser takes them or refuses them with one short sentence that repeats no value.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, unreachable_pub)]

mod hostile_texts;

use carillon_jobs::{Envelope, Kind};
use hostile_texts::{MARK, hostile_text, worst_texts};
use proptest::prelude::*;

/// What a person is shown; a producer's own field name is the only thing in it that has no fixed length.
const LONGEST_ERROR: usize = 700;

fn judge(text: &[u8]) -> Result<(), String> {
    for kind in Kind::ALL {
        match Envelope::parse(*kind, text) {
            // Every part of it was understood, so it can be written again and means the same; but for a trace context that
            // is none, which is dropped.
            Ok(mut envelope) => {
                envelope.traceparent_unreadable = false;
                let again = envelope.to_text().map_err(|error| error.to_string())?;
                if Envelope::parse(*kind, again.as_bytes()) != Ok(envelope) {
                    return Err(format!("it became another job: {again}"));
                }
            }
            Err(error) => {
                let error = error.to_string();
                if error.contains(MARK) || error.len() > LONGEST_ERROR || error.chars().any(char::is_control) {
                    return Err(format!("not an error for people: {error:?}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_worst_texts_are_taken_or_refused() {
    for text in worst_texts() {
        let start = text.iter().take(40).copied().collect::<Vec<_>>();
        assert_eq!(
            judge(&text),
            Ok(()),
            "{:?}… ({} bytes)",
            String::from_utf8_lossy(&start),
            text.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn any_hostile_text_is_taken_or_refused(text in hostile_text()) {
        prop_assert_eq!(judge(&text), Ok(()), "{}", String::from_utf8_lossy(&text));
    }
}
