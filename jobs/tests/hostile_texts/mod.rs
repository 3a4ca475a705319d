//! Texts nobody should push and somebody will: what the parser's property tests and the test of the real worker share.

use proptest::prelude::*;

/// Stands in values only. No error may repeat it.
pub const MARK: &str = "geheim-0912345678";

const ID: &str = "0190b5a0-7c3e-7d2a-9f41-2b6f0e8c1a77";
const FIELDS: [&str; 11] = [
    "id",
    "args",
    "run_at",
    "max_attempts",
    "unique",
    "traceparent",
    "broadcast_id",
    "sender_id",
    "",
    "\\u0000",
    "ARGS",
];

/// What a worker itself might have put before a text: its bytes are not part of the text, so they are not kept.
pub const FORGED_HEADERS: [&[u8]; 2] = [
    b"\x011 1 1 1 x y@z\n",
    b"\x010 2 0 18446744073709551615 from-the-future -\n",
];

/// One JSON value, or something that is nearly one.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(vec![
        "null",
        "true",
        "-0",
        "1e999999",
        "-1e-999999",
        "0.1e1",
        "01",
        "+1",
        "NaN",
        "18446744073709551616",
        "4294967296",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\x\"",
        "\"2020-02-30T00:00:00Z\"",
        "\"2020-01-01T00:00:00Z\"",
        "\"9999-12-31T23:59:60Z\"",
        "\"2020-01-01T00:00:00+99:99\"",
        "\"-262144-01-01T00:00:00Z\"",
        "\"geheim-0912345678\"",
        "\"unterminated geheim-0912345678",
        "{\"broadcast_id\":\"geheim-0912345678\"}",
    ]);
    let leaf = prop_oneof![
        4 => odd.prop_map(|text| text.as_bytes().to_vec()),
        2 => Just(format!("\"{ID}\"").into_bytes()),
        2 => Just(format!("{{\"broadcast_id\":\"{ID}\"}}").into_bytes()),
        1 => (1..400_usize, any::<bool>()).prop_map(|(digits, fraction)| {
            format!("{}{}", "9".repeat(digits), if fraction { ".5e+77" } else { "" }).into_bytes()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| quoted(&bytes)),
        1 => ".{0,40}".prop_map(|text| quoted(text.as_bytes())),
        1 => (1..40_usize).prop_map(|depth| [b"[".repeat(depth), b"]".repeat(depth)].concat()),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|values| wrapped(b'[', &values, b']')),
            object(inner),
        ]
    })
}

/// Raw bytes between quotes: whatever they are, escaped or not, UTF-8 or not.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    [b"\"", bytes, b"\""].concat()
}

fn wrapped(open: u8, parts: &[Vec<u8>], close: u8) -> Vec<u8> {
    let mut text = vec![open];
    text.extend(parts.join(&b','));
    text.push(close);
    text
}

/// Fields in any order, as often as they come.
fn object(value: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((prop::sample::select(FIELDS.to_vec()), value), 0..7).prop_map(|fields| {
        let fields: Vec<Vec<u8>> = fields
            .iter()
            .map(|(name, value)| [format!("\"{name}\":").as_bytes(), value].concat())
            .collect();
        wrapped(b'{', &fields, b'}')
    })
}

/// A text that is a job but for one part, an object of fields that exist, any bytes, or any of these spoilt.
pub fn hostile_text() -> impl Strategy<Value = Vec<u8>> {
    let nearly = (prop::sample::select(FIELDS.to_vec()), value()).prop_map(|(name, value)| {
        let start = format!("{{\"args\":{{\"broadcast_id\":\"{ID}\"}},\"{name}\":");
        [start.as_bytes(), &value, b"}"].concat()
    });
    let in_args = (prop::sample::select(FIELDS.to_vec()), value()).prop_map(|(name, value)| {
        let start = format!("{{\"args\":{{\"broadcast_id\":\"{ID}\",\"{name}\":");
        [start.as_bytes(), &value, b"}}"].concat()
    });
    let text = prop_oneof![
        3 => nearly,
        3 => in_args,
        3 => object(value()),
        1 => value(),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    let spoil = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>(), any::<bool>()));
    (text, spoil).prop_map(|(mut text, spoil)| {
        if let Some((at, byte, cut)) = spoil
            && !text.is_empty()
        {
            let at = at.index(text.len());
            text[at] = byte;
            if cut {
                text.truncate(at);
            }
        }
        text
    })
}

/// The largest and the worst, each for a reason of its own.
pub fn worst_texts() -> Vec<Vec<u8>> {
    const MEBI: usize = 1024 * 1024;
    let args = format!("\"args\":{{\"broadcast_id\":\"{ID}\"}}");
    let around = |inner: &[u8]| [b"{", args.as_bytes(), b",\"id\":", inner, b"}"].concat();
    vec![
        // Ten megabytes of: nothing, brackets, one string, one number, one key given again and again.
        vec![b' '; 10 * MEBI],
        vec![b'['; 10 * MEBI],
        around(&quoted(&vec![b'x'; 10 * MEBI])),
        around(&vec![b'9'; 10 * MEBI]),
        around(format!("1{}", ",\"id\":1".repeat(10 * MEBI / 7)).as_bytes()),
        // The same just below the limit, where they are parsed.
        vec![0; MEBI],
        vec![0xff; MEBI],
        [vec![b'['; MEBI / 2 - 1], vec![b']'; MEBI / 2 - 1]].concat(),
        around(&quoted(&vec![b'x'; MEBI - 200])),
        around(&quoted(&b"\\u0000".repeat(170_000))),
        around(&quoted(&b"\\\"".repeat(500_000))),
        around(&vec![b'9'; MEBI - 200]),
        around(format!("1e{}", "9".repeat(MEBI - 200)).as_bytes()),
        around(format!("1{}", ",\"id\":1".repeat(140_000)).as_bytes()),
        around(format!("1{}", ",\"a\":1".repeat(140_000)).as_bytes()),
        // A byte order mark, UTF-16, two texts in one, a comment, a lone surrogate, overlong UTF-8.
        [b"\xef\xbb\xbf{", args.as_bytes(), b"}"].concat(),
        "{\"args\":{}}".encode_utf16().flat_map(u16::to_le_bytes).collect(),
        format!("{{{args}}}{{{args}}}").into_bytes(),
        format!("{{{args}}}//").into_bytes(),
        around(b"\"\\ud800\""),
        around(b"\"\xc0\x80\""),
        // What looks like the queue's own header: cut off, unending, with counts no counter holds.
        b"\x01".to_vec(),
        [b"\x010 0 0 0 ".as_slice(), &vec![b'x'; MEBI - 10]].concat(),
        [b"\x01".as_slice(), &vec![b'9'; MEBI - 10]].concat(),
        format!("\u{1}99999999999 0 0 0 x -\n{{{args}}}").into_bytes(),
        [FORGED_HEADERS[0], format!("{{\"args\":\"{MARK}\"}}").as_bytes()].concat(),
        [FORGED_HEADERS[1], b"{\"args\":1}"].concat(),
        b"\x010 0 0 1 no\0reference -\n{\"args\":2}".to_vec(),
    ]
}
