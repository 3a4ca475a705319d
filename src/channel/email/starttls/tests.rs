//! Whatever is said in the clear, in whatever pieces: TLS begins only where the relay gave leave to, and nothing else stands there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, duplex};

use super::*;

const ALL_WE_SAY: &str = "EHLO shop.example\r\nSTARTTLS\r\n";
const ALL: [Awaited; 3] = [Awaited::Greeting, Awaited::Offers, Awaited::Leave];

fn awaited() -> impl Strategy<Value = Awaited> {
    proptest::sample::select(ALL.to_vec())
}

/// A reply as a server may write one: one of `codes`, and lines of which the last has a space behind it.
fn said(codes: &'static [u16]) -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("STARTTLS".to_owned()),
        Just("StartTLS now".to_owned()),
        Just("AUTH PLAIN STARTTLS".to_owned()),
        "[ -~]{0,20}",
    ];
    (proptest::sample::select(codes), prop::collection::vec(word, 1..5)).prop_map(|(code, lines)| {
        let last = lines.len() - 1;
        let line = |(n, text): (usize, &String)| format!("{code}{}{text}\r\n", if n == last { ' ' } else { '-' });
        lines.iter().enumerate().map(line).collect()
    })
}

fn reply() -> impl Strategy<Value = String> {
    said(&[220, 220, 250, 250, 235, 354, 421, 454, 502, 554])
}

/// A leave to begin.
fn leave() -> impl Strategy<Value = String> {
    said(&[220])
}

/// A leave with one byte changed into another one that replies are made of.
fn bent_leave() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof!["[ -~]", "[0-9 \r\n-]"].prop_map(|text| text.as_bytes()[0]);
    (leave(), any::<prop::sample::Index>(), byte).prop_map(|(leave, at, byte)| {
        let mut leave = leave.into_bytes();
        let at = at.index(leave.len());
        leave[at] = byte;
        leave
    })
}

/// A greeting, offers and a leave; nearly every time each is as a willing relay says it.
fn three_replies() -> impl Strategy<Value = [String; 3]> {
    let offers = said(&[250]).prop_map(|more| format!("250-x\r\n250-STARTTLS\r\n{more}"));
    let greeting = prop_oneof![12 => said(&[220, 250]), 1 => reply()];
    let offers = prop_oneof![12 => offers, 1 => reply()];
    let leave = prop_oneof![12 => leave(), 1 => reply()];
    (greeting, offers, leave).prop_map(|(greeting, offers, leave)| [greeting, offers, leave])
}

/// What a relay answers, step by step: three times in four what leads to TLS or nearly does.
fn answers() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let bytes = |replies: [String; 3]| replies.map(String::into_bytes).to_vec();
    let anything = prop_oneof![3 => reply().prop_map(String::into_bytes), 1 => noise()];
    let disturbed = (three_replies(), 0..3_usize, noise()).prop_map(move |(replies, at, noise)| {
        let mut answers = bytes(replies);
        answers[at] = noise;
        answers
    });
    prop_oneof![
        6 => three_replies().prop_map(bytes),
        1 => disturbed,
        1 => prop::collection::vec(anything, 0..4),
    ]
}

/// Bytes that have something of a reply.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        reply().prop_map(String::into_bytes),
        Just(b"220 ".to_vec()),
        Just(b"250-STARTTLS\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn code_of(reply: &str) -> u16 {
    reply[..3].parse().unwrap()
}

/// What follows from one whole reply, told in another way than the code tells it.
fn expected(awaited: Awaited, reply: &str) -> Option<Next> {
    let offered = || {
        let words = reply
            .lines()
            .skip(1)
            .filter_map(|line| line[4..].split_whitespace().next());
        words.map(str::to_uppercase).any(|word| word == "STARTTLS")
    };
    match awaited {
        Awaited::Greeting => (code_of(reply) / 100 == 2).then_some(Next::Ask(Awaited::Offers)),
        Awaited::Offers => (code_of(reply) / 100 == 2 && offered()).then_some(Next::Ask(Awaited::Leave)),
        Awaited::Leave => (code_of(reply) == 220).then_some(Next::ShakeHands),
    }
}

/// Plays a relay that answers each step with one of `answers`, in pieces of these sizes; returns all it heard.
async fn play(relay: DuplexStream, answers: Vec<Vec<u8>>, piece: usize) -> String {
    let mut relay = BufReader::new(relay);
    let mut heard = String::new();
    for (n, answer) in answers.iter().enumerate() {
        if n > 0 && !matches!(relay.read_line(&mut heard).await, Ok(1..)) {
            break;
        }
        for part in answer.chunks(piece) {
            if relay.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let _ = relay.shutdown().await;
    while matches!(relay.read_line(&mut heard).await, Ok(1..)) {}
    heard
}

/// What came of it, and all that was said to the relay.
fn conversation(answers: Vec<Vec<u8>>, piece: usize, limit: Duration) -> (Result<(), Refusal>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.unwrap().block_on(async {
        let (mut ours, theirs) = duplex(64);
        let hello = ClientId::Domain("shop.example".to_owned());
        let asking = async move { ask_for_tls(&mut ours, &hello, limit).await };
        tokio::join!(asking, play(theirs, answers, piece))
    })
}

proptest! {
    #[test]
    fn a_whole_reply_leads_where_it_must_and_any_beginning_of_it_is_waited_out(awaited in awaited(), reply in reply()) {
        for end in 0..reply.len() {
            prop_assert_eq!(awaited.after(&reply.as_bytes()[..end]), Ok(None));
        }
        prop_assert_eq!(awaited.after(reply.as_bytes()).ok(), expected(awaited, &reply).map(Some));
    }

    #[test]
    fn nothing_may_stand_behind_a_reply(awaited in awaited(), reply in reply(), behind in prop::collection::vec(any::<u8>(), 1..20)) {
        let all = [reply.as_bytes(), &behind].concat();
        let refusal = awaited.after(&all).unwrap_err();
        prop_assert!(refusal.code.ends_with("_injected"), "{}", refusal.code);
        prop_assert_eq!(refusal.class, ErrorClass::Unreachable);
    }

    #[test]
    fn tls_begins_only_behind_a_leave_to(
        awaited in prop_oneof![6 => Just(Awaited::Leave), 1 => awaited()],
        heard in prop_oneof![4 => leave().prop_map(String::into_bytes), 3 => bent_leave(), 1 => noise()],
    ) {
        if awaited.after(&heard) == Ok(Some(Next::ShakeHands)) {
            let text = String::from_utf8(heard).unwrap();
            prop_assert_eq!(awaited, Awaited::Leave);
            prop_assert!(text.split_terminator("\r\n").all(|line| line.starts_with("220")), "{text:?}");
            prop_assert!(text.ends_with("\r\n"));
        }
    }

    #[test]
    fn more_than_a_reply_may_have_is_never_waited_for(awaited in awaited(), line in "[ -~]{1,30}") {
        for mut heard in [line.clone(), format!("220-{line}\r\n")].map(|part| part.repeat(REPLY_BYTES / part.len() + 1)) {
            prop_assert!(awaited.after(heard.as_bytes()).is_err());
            heard.truncate(REPLY_BYTES - 1);
            prop_assert_eq!(awaited.after(heard.as_bytes()), Ok(None));
        }
    }

    #[test]
    fn only_ehlo_and_starttls_are_said_in_the_clear(
        answers in answers(),
        piece in 1_usize..40,
    ) {
        // A relay that says nothing is given up; whether in time is all the same here.
        let (outcome, heard) = conversation(answers, piece, Duration::from_millis(5));
        prop_assert!(ALL_WE_SAY.starts_with(&heard), "{heard:?}");
        match outcome {
            Ok(()) => prop_assert_eq!(heard, ALL_WE_SAY),
            Err(refusal) => prop_assert!(refusal.class.not_sent(), "{refusal:?}"),
        }
    }

    #[test]
    fn in_whatever_pieces_replies_come_they_lead_to_the_same(
        replies in three_replies(),
        piece in 1_usize..40,
    ) {
        let leads_to_tls = ALL.iter().zip(&replies).all(|(awaited, reply)| expected(*awaited, reply).is_some());
        let (outcome, _) = conversation(replies.into_iter().map(String::into_bytes).collect(), piece, Duration::from_secs(30));
        prop_assert_eq!(outcome.is_ok(), leads_to_tls, "{:?}", outcome);
    }
}
