//! The limits of a job text, in one place because the schema, the parser and the producer all quote them.

/// The longest job text, in bytes. A job carries ids; a longer text is a mistake, and it is dead at once.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;
/// The deepest nesting of objects and arrays in a job text.
pub const MAX_DEPTH: usize = 8;
/// The longest `id`, in characters.
pub const MAX_ID_CHARS: usize = 128;
/// The longest `unique` key, in characters.
pub const MAX_UNIQUE_CHARS: usize = 200;
/// The most attempts a job may ask for.
pub const MAX_ATTEMPTS: u32 = 100;
/// The farthest `run_at`, in days from now. What is due later belongs in a table, not in a queue.
pub const MAX_RUN_AHEAD_DAYS: i64 = 366;

/// The deepest nesting of objects and arrays in `text`, without parsing it.
///
/// Looked at before the parser is let loose, so that a text made of brackets costs one pass over its bytes.
pub(crate) fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::depth;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(b""), 0);
        assert_eq!(depth(b"{}"), 1);
        assert_eq!(depth(br#"{"a":[{"b":1}],"c":{}}"#), 3);
        assert_eq!(depth(br#"{"a":"[[[[\"{{{"}"#), 1);
        assert_eq!(depth(&[b'['; 10_000]), 10_000);
    }
}
