//! The HTTP/1.1 server: one task per connection, one buffer in, one buffer out, no allocation per request.
//! It exists because the sandbox shares its CPU with what it measures, and because faults need the bare socket: cut,
//! reset, half an answer, silence.
//! It must never interpret a provider's rules (that is `line`, `fcm`, `oauth`), and never await while a request borrows
//! the buffer. Bodies need a `Content-Length`; chunked bodies are refused with 411.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use httparse::{Header, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::channel::Channel;
use crate::line::TestEvent;
use crate::routes;
use crate::state::State;

const MAX_HEAD_BYTES: usize = 64 * 1024;
/// A body over the limit is still read up to here, so that the caller sees the 413 instead of a broken pipe.
const MAX_DRAIN_BYTES: usize = 64 * 1024 * 1024;

/// One request, borrowed from the connection's buffer.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a [Header<'a>],
    pub(crate) body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The value of a header, name compared without case.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        header(self.headers, name)
    }

    /// The token of `Authorization: Bearer …`.
    pub(crate) fn bearer(&self) -> Option<&'a str> {
        self.header("authorization")?
            .strip_prefix("Bearer ")
            .filter(|token| !token.is_empty())
    }

    /// True when the media type is `wanted`, whatever its parameters.
    pub(crate) fn is_media_type(&self, wanted: &str) -> bool {
        let media_type = self.header("content-type").and_then(|value| value.split(';').next());
        media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case(wanted))
    }
}

fn header<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok().map(str::trim)
}

/// The answer being built; its buffers live as long as the connection.
#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Extra header lines, each ended by CRLF.
    pub(crate) headers: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
    /// Whose message it is about, where it is about one.
    about: Option<Channel>,
    recipient: String,
    /// Something to do elsewhere first; what it says is the body then.
    pub(crate) errand: Option<TestEvent>,
}

impl Answer {
    fn clear(&mut self) {
        self.status = 200;
        self.headers.clear();
        self.content_type = "application/json";
        self.body.clear();
        self.about = None;
        self.errand = None;
    }

    /// Says whose message the answer is about.
    pub(crate) fn concerns(&mut self, channel: Channel, recipient: &str) {
        self.about = Some(channel);
        self.recipient.clear();
        self.recipient.push_str(recipient);
    }

    pub(crate) fn header(&mut self, name: &str, value: &str) {
        for part in [name, ": ", value, "\r\n"] {
            self.headers.push_str(part);
        }
    }

    /// Sets status and body.
    pub(crate) fn set(&mut self, status: u16, body: &str) {
        self.status = status;
        self.body.clear();
        self.body.push_str(body);
    }
}

/// What happens to the connection once the answer is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Answer,
    /// Half of the body, then the connection closes.
    Truncate,
    /// A TCP reset instead of the answer.
    Reset,
    /// Nothing, for as long as the caller stays.
    Hang,
}

/// The router's decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) then: Then,
    pub(crate) delay: Duration,
}

impl Verdict {
    pub(crate) const NOW: Verdict = Verdict {
        then: Then::Answer,
        delay: Duration::ZERO,
    };
}

enum Step {
    /// Read until the buffer holds this many bytes.
    Read { until: usize, expects_continue: bool },
    /// The answer is ready; `used` bytes of the buffer are done with.
    Done { used: usize, verdict: Verdict, close: bool },
    /// The answer refuses the body; read and forget what is left of it, answer, close.
    TooLarge { total: usize },
    /// Not HTTP/1.1; answer and close.
    Bad,
}

/// Serves one connection until it closes.
pub(crate) async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut inbox: Vec<u8> = Vec::with_capacity(16 * 1024);
    let mut outbox: Vec<u8> = Vec::with_capacity(4 * 1024);
    let mut answer = Answer::default();
    let mut wanted = 1;
    loop {
        while inbox.len() < wanted {
            if inbox.capacity() < wanted {
                inbox.reserve(wanted - inbox.len());
            }
            match stream.read_buf(&mut inbox).await {
                Ok(n) if n > 0 => {}
                end => {
                    if inbox.is_empty() && (end.is_err() || was_refused(&stream)) {
                        left_unread(&state, &answer);
                    }
                    return;
                }
            }
        }
        match step(&inbox, &state, &mut answer) {
            Step::Read {
                until,
                expects_continue,
            } => {
                if expects_continue && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
                    return;
                }
                wanted = until;
            }
            Step::Done { used, verdict, close } => {
                if used == inbox.len() {
                    inbox.clear();
                } else {
                    inbox.drain(..used);
                }
                wanted = 1;
                if let Some(errand) = answer.errand.take().filter(|_| answer.status == 200) {
                    answer.body = errand.run().await;
                }
                let kept = finish(&mut stream, &answer, &mut outbox, verdict).await;
                if !kept && verdict.then == Then::Answer {
                    left_unread(&state, &answer);
                }
                if close || !kept {
                    return;
                }
            }
            Step::TooLarge { total } => {
                drain(&mut stream, total.saturating_sub(inbox.len())).await;
                finish(&mut stream, &answer, &mut outbox, Verdict::NOW).await;
                return;
            }
            Step::Bad => {
                finish(&mut stream, &answer, &mut outbox, Verdict::NOW).await;
                return;
            }
        }
    }
}

/// Whether the caller refused what was written last: it had hung up before, which looks like a good end until then.
pub(crate) fn was_refused(stream: &TcpStream) -> bool {
    matches!(stream.take_error(), Ok(Some(_)))
}

/// Notes that the caller did not stay for the last answer.
fn left_unread(state: &State, answer: &Answer) {
    if let Some(channel) = answer.about {
        state.traffic(channel).left_unread(&answer.recipient);
    }
}

/// Looks at what has arrived and, once a whole request is there, has it answered.
fn step(inbox: &[u8], state: &State, answer: &mut Answer) -> Step {
    answer.clear();
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut slots);
    let head_len = match parsed.parse(inbox) {
        Ok(Status::Complete(head_len)) => head_len,
        Ok(Status::Partial) if inbox.len() <= MAX_HEAD_BYTES => {
            return Step::Read {
                until: inbox.len() + 1,
                expects_continue: false,
            };
        }
        Ok(Status::Partial) | Err(_) => {
            answer.set(400, r#"{"message":"Bad request"}"#);
            return Step::Bad;
        }
    };
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let length = header(parsed.headers, "content-length").map_or(Ok(0), str::parse::<usize>);
    let Ok(length) = length else {
        answer.set(400, r#"{"message":"Bad Content-Length"}"#);
        return Step::Bad;
    };
    if header(parsed.headers, "transfer-encoding").is_some() {
        answer.set(411, r#"{"message":"A Content-Length is required"}"#);
        return Step::Bad;
    }
    let total = head_len.saturating_add(length);
    if length > routes::body_limit(path) {
        routes::refuse_body(path, state, answer);
        return Step::TooLarge { total };
    }
    let Some(body) = inbox.get(head_len..total) else {
        let continues =
            header(parsed.headers, "expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        return Step::Read {
            until: total,
            expects_continue: continues && inbox.len() == head_len,
        };
    };
    let connection = header(parsed.headers, "connection").unwrap_or("");
    let close = connection.eq_ignore_ascii_case("close")
        || (parsed.version == Some(0) && !connection.eq_ignore_ascii_case("keep-alive"));
    let request = Request {
        method: parsed.method.unwrap_or(""),
        path,
        query,
        headers: parsed.headers,
        body,
    };
    let verdict = routes::answer(state, &request, answer);
    Step::Done {
        used: total,
        verdict,
        close,
    }
}

/// Carries out the verdict; false when the connection is over.
async fn finish(stream: &mut TcpStream, answer: &Answer, outbox: &mut Vec<u8>, verdict: Verdict) -> bool {
    if !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    match verdict.then {
        Then::Answer => {
            write_answer(answer, outbox);
            stream.write_all(outbox).await.is_ok()
        }
        Then::Truncate => {
            write_answer(answer, outbox);
            let half = outbox.len().saturating_sub(answer.body.len().div_ceil(2));
            outbox.truncate(half);
            let _ = stream.write_all(outbox).await;
            let _ = stream.shutdown().await;
            false
        }
        Then::Reset => {
            let _ = stream.set_zero_linger();
            false
        }
        Then::Hang => {
            drain(stream, usize::MAX).await;
            false
        }
    }
}

fn write_answer(answer: &Answer, outbox: &mut Vec<u8>) {
    outbox.clear();
    // Writing to a Vec cannot fail.
    let _ = write!(
        outbox,
        "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {}\r\n",
        answer.status,
        reason(answer.status),
        answer.content_type,
        answer.body.len()
    );
    outbox.extend_from_slice(answer.headers.as_bytes());
    outbox.extend_from_slice(b"\r\n");
    outbox.extend_from_slice(answer.body.as_bytes());
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Payload Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// Reads and forgets up to `left` bytes, or until the peer goes away.
async fn drain(stream: &mut TcpStream, left: usize) {
    let mut left = if left == usize::MAX {
        left
    } else {
        left.min(MAX_DRAIN_BYTES)
    };
    let mut sink = vec![0_u8; 64 * 1024];
    while left > 0 {
        match stream.read(&mut sink).await {
            Ok(0) | Err(_) => return,
            Ok(n) => left = left.saturating_sub(n),
        }
    }
}
