//! A W3C trace context, `00-<trace id>-<parent id>-<flags>`: whose work a job continues.
//!
//! It says where a job is shown, never whether it runs: whoever cannot read one goes on without. `tracestate` is not
//! carried; that standard allows it to be left out.

use std::{fmt, str::FromStr};

/// The first bytes of every version: version, trace id, parent id, flags and the three dashes.
const LENGTH: usize = 55;

/// A readable `traceparent`. Neither id is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: u128,
    /// The span that rang.
    pub parent_id: u64,
    /// The flags; the lowest bit says that the producer records this trace.
    pub flags: u8,
}

/// The text is no trace context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C trace context: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, lower case")]
pub struct NoTraceParent;

impl FromStr for TraceParent {
    type Err = NoTraceParent;

    /// A later version may have more behind the flags, after a dash; version `00` may not.
    fn from_str(text: &str) -> Result<Self, NoTraceParent> {
        let (known, rest) = text.split_at_checked(LENGTH).ok_or(NoTraceParent)?;
        let mut parts = known.split('-');
        let mut part = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length)?;
            let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if part.bytes().all(lower_hex) {
                u128::from_str_radix(part, 16).ok()
            } else {
                None
            }
        };
        let read = (|| Some((part(2)?, part(32)?, part(16)?, part(2)?)))();
        let (version, trace_id, parent_id, flags) = read.ok_or(NoTraceParent)?;
        let rest_fits = rest.is_empty() || (version != 0 && rest.starts_with('-'));
        if version == 0xff || trace_id == 0 || parent_id == 0 || !rest_fits {
            return Err(NoTraceParent);
        }
        Ok(Self {
            trace_id,
            parent_id: u64::try_from(parent_id).map_err(|_| NoTraceParent)?,
            flags: u8::try_from(flags).map_err(|_| NoTraceParent)?,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.parent_id, self.flags
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_taken_only_when_it_is_one() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let read: Result<TraceParent, _> = text.parse();
        assert_eq!(
            read,
            Ok(TraceParent {
                trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
                parent_id: 0x00f0_67aa_0ba9_02b7,
                flags: 1
            })
        );
        assert_eq!(read.map(|read| read.to_string()), Ok(text.to_owned()));
        // A later version is read as far as it is known.
        for later in [
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(later.parse(), read, "{later}");
        }
        for wrong in [
            "",
            "4bf92f35",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é",
        ] {
            assert_eq!(wrong.parse::<TraceParent>(), Err(NoTraceParent), "{wrong}");
        }
    }
}
