//! How bad providers answer a message, and what an adapter has to make of each.

use carillon::channel::ErrorClass;

use crate::{conform_provider::Play, conform_scene::Adapter};

/// What a case has to come to; none: accepted.
pub(crate) type Class = Option<ErrorClass>;

/// An HTTP answer whose length is said to be `length`.
pub(crate) fn http(status: &str, kind: &str, headers: &str, body: &[u8], length: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

pub(crate) fn whole(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    http(status, kind, "", body, body.len())
}

const TEN_MB: usize = 10 * 1024 * 1024;

/// How a bad provider answers a message: over HTTP, or over SMTP where the case exists there.
pub(crate) struct Bad {
    pub(crate) name: &'static str,
    pub(crate) http: fn(Adapter) -> Play,
    pub(crate) smtp: Option<fn() -> Play>,
    pub(crate) expected: &'static [Class],
}

const UNCERTAIN: &[Class] = &[Some(ErrorClass::Uncertain)];

pub(crate) const BAD: &[Bad] = &[
    Bad {
        name: "a good answer, to show that the others are bad for their own sake",
        http: |adapter| {
            let (status, kind, body) = (adapter.good)();
            Play::Says(whole(status, kind, body.as_bytes()))
        },
        smtp: Some(|| Play::Says(b"250 2.0.0 Ok: queued as 4F2A1\r\n".to_vec())),
        expected: &[None],
    },
    Bad {
        name: "garbage",
        http: |adapter| {
            let (status, kind, _) = (adapter.good)();
            Play::Says(whole(status, kind, b"<html>It works!</html>"))
        },
        smtp: Some(|| Play::Says(b"It works!\r\n".to_vec())),
        expected: UNCERTAIN,
    },
    Bad {
        name: "an empty answer",
        http: |adapter| {
            let (status, kind, _) = (adapter.good)();
            Play::Says(whole(status, kind, b""))
        },
        smtp: Some(|| Play::Says(Vec::new())),
        expected: UNCERTAIN,
    },
    Bad {
        name: "half a body",
        http: |adapter| {
            let (status, kind, body) = (adapter.good)();
            Play::Says(http(status, kind, "", &body.as_bytes()[..body.len() / 2], body.len()))
        },
        smtp: Some(|| Play::Says(b"25".to_vec())),
        expected: UNCERTAIN,
    },
    Bad {
        name: "a whole body, but shorter than it says",
        http: |adapter| {
            let (status, kind, body) = (adapter.good)();
            Play::Says(http(status, kind, "", body.as_bytes(), body.len() + 1))
        },
        smtp: Some(|| Play::Says(b"250 2.0.0 O".to_vec())),
        expected: UNCERTAIN,
    },
    Bad {
        name: "another protocol",
        http: |_| Play::Says(b"\x16\x03\x01\x00\xff\xfe no HTTP\r\n\r\n".to_vec()),
        smtp: Some(|| Play::Says(b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe".to_vec())),
        expected: UNCERTAIN,
    },
    Bad {
        name: "a redirect",
        http: |adapter| {
            let body = (adapter.good)().2;
            Play::Says(http(
                "307 Temporary Redirect",
                (adapter.good)().1,
                "location: /there\r\n",
                body.as_bytes(),
                body.len(),
            ))
        },
        smtp: Some(|| Play::Says(b"354 go on\r\n".to_vec())),
        expected: UNCERTAIN,
    },
    Bad {
        name: "no content",
        http: |_| Play::Says(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        smtp: None,
        expected: UNCERTAIN,
    },
    Bad {
        name: "10 MB of a good answer",
        http: |adapter| {
            let (status, kind, body) = (adapter.good)();
            let long = body + &"\r\n".repeat(TEN_MB / 2);
            Play::Says(whole(status, kind, long.as_bytes()))
        },
        smtp: Some(|| {
            let line = format!("250-{}\r\n", "x".repeat(894));
            Play::Says((line.repeat(TEN_MB / 900) + "250 2.0.0 Ok\r\n").into_bytes())
        }),
        expected: UNCERTAIN,
    },
    Bad {
        name: "10 MB of a refusal",
        http: |_| {
            Play::Says(whole(
                "400 Bad Request",
                "application/json",
                "[] ".repeat(TEN_MB / 3).as_bytes(),
            ))
        },
        smtp: None,
        expected: UNCERTAIN,
    },
    Bad {
        name: "another type of content",
        http: |adapter| {
            let (status, _, body) = (adapter.good)();
            Play::Says(whole(status, "application/octet-stream", body.as_bytes()))
        },
        smtp: None,
        expected: UNCERTAIN,
    },
    Bad {
        name: "nothing, ever",
        http: |_| Play::Never,
        smtp: Some(|| Play::Never),
        expected: UNCERTAIN,
    },
    Bad {
        name: "an answer that stops without an end",
        http: |adapter| {
            let (status, kind, body) = (adapter.good)();
            Play::SaysAndResets(http(status, kind, "", &body.as_bytes()[..body.len() / 2], body.len()))
        },
        smtp: Some(|| Play::SaysAndResets(b"250-2.0.0 O".to_vec())),
        expected: UNCERTAIN,
    },
    Bad {
        name: "a reset once everything was read",
        http: |_| Play::SaysAndResets(Vec::new()),
        smtp: Some(|| Play::SaysAndResets(Vec::new())),
        expected: UNCERTAIN,
    },
    Bad {
        name: "a reset before anything was read",
        http: |_| Play::ResetsAtOnce,
        smtp: Some(|| Play::ResetsAtOnce),
        // Whether the request had begun to leave is the kernel's secret.
        expected: &[Some(ErrorClass::Uncertain), Some(ErrorClass::Unreachable)],
    },
];
