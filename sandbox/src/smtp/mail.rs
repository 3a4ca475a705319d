//! Looks into an accepted mail: are the headers a relay insists on there, which broadcast is it, what does it say; pure.
//! It exists because a mail without From or Date is refused by real relays, and a test wants to read the text.
//! It must never be used to judge content: only form. It decodes UTF-8 (and ASCII) only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::received::Content;
use crate::smtp::replies::Reply;

const MISSING: Reply = Reply::new(554, "5.6.0 Exactly one From, Date and Message-ID header is required");
const BAD_HEADER: Reply = Reply::new(554, "5.6.0 Malformed header");
const NOT_ASCII: Reply = Reply::new(554, "5.6.7 8-bit data needs BODY=8BITMIME, 8-bit headers need SMTPUTF8");
/// Nesting of multiparts that is still looked into.
const MAX_DEPTH: u8 = 8;

/// Header fields of a mail or a part, names in lower case, values unfolded.
struct Headers(Vec<(String, String)>);

impl Headers {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|(known, _)| known == name).count()
    }
}

/// Checks a mail's form and reads what it says; body and return path are kept only on demand.
pub(crate) fn read(
    raw: &[u8],
    eight_bit: bool,
    utf8: bool,
    keep_body: bool,
    return_path: Option<&str>,
) -> Result<Content, Reply> {
    if !eight_bit && !utf8 && !raw.is_ascii() {
        return Err(NOT_ASCII);
    }
    let (head, body) = split_head(raw);
    if !utf8 && !head.is_ascii() {
        return Err(NOT_ASCII);
    }
    let headers = parse_headers(head).ok_or(BAD_HEADER)?;
    if ["from", "date", "message-id"]
        .iter()
        .any(|name| headers.count(name) != 1)
    {
        return Err(MISSING);
    }
    let mut text = decode_words(headers.get("subject").unwrap_or(""));
    if let Some(part) = find_text(&headers, body, "text/plain", 0).or_else(|| find_text(&headers, body, "text/html", 0))
    {
        text.push('\n');
        text.push_str(part.trim_end());
    }
    let marker = headers
        .get("x-broadcast-id")
        .or_else(|| headers.get("feedback-id"))
        .unwrap_or("");
    let kept = if keep_body {
        String::from_utf8_lossy(raw)
    } else {
        "".into()
    };
    let kept = match return_path {
        Some(path) => format!("Return-Path: <{path}>\r\n{kept}").into(),
        None => kept,
    };
    Ok(Content::new(marker, &text, &kept))
}

/// Header block and body; a mail without an empty line is all headers.
fn split_head(raw: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = raw.strip_prefix(b"\r\n") {
        return (b"", body);
    }
    match raw.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(at) => (raw.get(..at + 2).unwrap_or(raw), raw.get(at + 4..).unwrap_or(b"")),
        None => (raw, b""),
    }
}

fn parse_headers(head: &[u8]) -> Option<Headers> {
    let head = std::str::from_utf8(head).ok()?;
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in head.split_terminator("\r\n") {
        if line.starts_with([' ', '\t']) {
            let (_, value) = headers.last_mut()?;
            value.push(' ');
            value.push_str(line.trim());
            continue;
        }
        let (name, value) = line.split_once(':')?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(Headers(headers))
}

/// The first leaf of type `wanted`, decoded.
fn find_text(headers: &Headers, body: &[u8], wanted: &str, depth: u8) -> Option<String> {
    let full = headers.get("content-type").unwrap_or("text/plain");
    let kind = full.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if kind == wanted {
        return Some(decode_body(
            body,
            headers.get("content-transfer-encoding").unwrap_or("7bit"),
        ));
    }
    if !kind.starts_with("multipart/") || depth >= MAX_DEPTH {
        return None;
    }
    let boundary = full.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary")
            .then(|| value.trim_matches('"').to_owned())
    })?;
    let text = String::from_utf8_lossy(body);
    // The first piece is the preamble; the closing delimiter leaves a piece that starts with `--`.
    text.split(&format!("--{boundary}"))
        .skip(1)
        .filter(|piece| !piece.starts_with("--"))
        .find_map(|piece| {
            let (head, body) = split_head(piece.strip_prefix("\r\n").unwrap_or(piece).as_bytes());
            find_text(&parse_headers(head)?, body, wanted, depth + 1)
        })
}

fn decode_body(body: &[u8], encoding: &str) -> String {
    let decoded = match encoding.trim().to_ascii_lowercase().as_str() {
        "base64" => {
            let compact: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
            STANDARD.decode(compact).unwrap_or_default()
        }
        "quoted-printable" => decode_quoted(body, false),
        _ => body.to_vec(),
    };
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Quoted-printable, or RFC 2047's variant of it where `_` is a space.
fn decode_quoted(text: &[u8], word: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'=', [b'\r', b'\n', after @ ..]) => rest = after,
            (b'=', [high, low, after @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                if let (Some(high), Some(low)) = (digit(*high), digit(*low)) {
                    out.push(high * 16 + low);
                    rest = after;
                } else {
                    out.push(byte);
                }
            }
            (b'_', _) if word => out.push(b' '),
            _ => out.push(byte),
        }
    }
    out
}

/// Decodes RFC 2047 encoded words; the space between two of them disappears.
fn decode_words(value: &str) -> String {
    let mut out = String::new();
    let mut after_word = false;
    for word in value.split(' ') {
        let decoded = decode_word(word);
        let joined = after_word && decoded.is_some();
        if !out.is_empty() && !joined {
            out.push(' ');
        }
        after_word = decoded.is_some();
        out.push_str(decoded.as_deref().unwrap_or(word));
    }
    out
}

fn decode_word(word: &str) -> Option<String> {
    let inner = word.strip_prefix("=?")?.strip_suffix("?=")?;
    let mut parts = inner.splitn(3, '?');
    let (_charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes = match encoding {
        "B" | "b" => STANDARD.decode(text).ok()?,
        "Q" | "q" => decode_quoted(text.as_bytes(), true),
        _ => return None,
    };
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
