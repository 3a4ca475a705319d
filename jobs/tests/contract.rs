//! The committed schemas and examples are the contract for producers in other languages; this keeps them true.
//!
//! `CARILLON_BLESS=1 cargo test -p carillon-jobs` writes the schemas and the expected errors anew after a change that
//! was meant.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use carillon_jobs::{ContractError, Envelope, Job, Kind, MAX_TEXT_BYTES};
use proptest::prelude::*;

fn folder(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares with what is committed, or commits it.
fn keep(path: &Path, content: &str) {
    if std::env::var_os("CARILLON_BLESS").is_some() {
        fs::write(path, content).unwrap();
    }
    let kept = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        kept,
        content,
        "{} is out of date; if the change was meant, run with CARILLON_BLESS=1",
        path.display()
    );
}

fn examples(kind: Kind, sort: &str) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder(&format!("examples/{kind}/{sort}")))
        .unwrap_or_else(|_| panic!("{kind} has no {sort} examples"));
    files
        .map(|file| file.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn matches_schema(kind: Kind, text: &[u8]) -> bool {
    let validator = jsonschema::validator_for(&kind.schema().to_value()).unwrap();
    serde_json::from_slice(text).is_ok_and(|value| validator.is_valid(&value))
}

#[test]
fn schemas_are_those_of_the_types() {
    for kind in Kind::ALL {
        let mut text = serde_json::to_string_pretty(&kind.schema()).unwrap();
        text.push('\n');
        keep(&folder(&format!("schemas/{kind}.json")), &text);
    }
}

#[test]
fn valid_examples_are_taken_and_invalid_ones_refused_with_the_field_named() {
    for kind in Kind::ALL {
        for (name, text) in examples(*kind, "valid") {
            let envelope = Envelope::parse(*kind, &text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(envelope.job.kind(), *kind);
            assert!(matches_schema(*kind, &text), "{name} does not match the schema");
        }
        let mut errors = String::new();
        for (name, text) in examples(*kind, "invalid") {
            let error = Envelope::parse(*kind, &text).expect_err(&name).to_string();
            assert!(
                !error.contains("secret"),
                "{name}: the error repeats what the text contained"
            );
            writeln!(errors, "{name}: {error}").unwrap();
            // What the schema cannot say; everything else it must refuse as well.
            let beyond = [
                "duplicate-field",
                "duplicate-field-in-args",
                "run-at-too-far",
                "run-at-without-offset",
            ];
            let uuid_format = ["broadcast-id-is-no-uuid", "sender-id-is-no-uuid"];
            let known = beyond.contains(&name.as_str()) || uuid_format.contains(&name.as_str());
            assert!(known || !matches_schema(*kind, &text), "{name} matches the schema");
        }
        keep(&folder(&format!("examples/{kind}/errors.txt")), &errors);
    }
}

#[test]
fn names_are_unique_and_parse() {
    for kind in Kind::ALL {
        assert_eq!(kind.name().parse::<Kind>().unwrap(), *kind);
        assert!(kind.policy().max_attempts > 0 && kind.policy().lease_secs > 0);
    }
    let error = "no-such".parse::<Kind>().unwrap_err().to_string();
    assert_eq!(error, "`no-such` is not a kind of job; kinds are broadcast-send");
}

#[test]
fn too_long_and_too_deep_texts_are_refused_unparsed() {
    let long = vec![b' '; MAX_TEXT_BYTES + 1];
    assert!(matches!(
        Envelope::parse(Kind::BroadcastSend, &long),
        Err(ContractError::TooLarge { .. })
    ));
    let deep = vec![b'['; MAX_TEXT_BYTES];
    assert!(matches!(
        Envelope::parse(Kind::BroadcastSend, &deep),
        Err(ContractError::TooDeep { .. })
    ));
}

#[test]
fn what_no_worker_would_take_is_not_written() {
    let Ok(Envelope { job, .. }) =
        Envelope::parse(Kind::BroadcastSend, &examples(Kind::BroadcastSend, "valid")["minimal"])
    else {
        panic!("the minimal example parses")
    };
    let mut envelope = Envelope::new(job);
    envelope.max_attempts = Some(0);
    assert!(envelope.to_text().unwrap_err().to_string().starts_with("max_attempts:"));
}

prop_compose! {
    fn envelopes()(
        id in proptest::option::of("[!-~]{1,128}"),
        broadcast in any::<u128>(),
        sender in proptest::option::of(any::<u128>()),
        run_at in proptest::option::of(-8_000_000_000_000_i64..1_700_000_000_000),
        max_attempts in proptest::option::of(1..=100_u32),
        unique in proptest::option::of("[^\\x00-\\x1f\\x7f]{1,200}"),
    ) -> Envelope {
        let uuid = |n: u128| format!("{n:032x}");
        let args = carillon_jobs::BroadcastSend {
            broadcast_id: uuid(broadcast).parse().unwrap(),
            sender_id: sender.map(|n| uuid(n).parse().unwrap()),
        };
        let mut envelope = Envelope::new(Job::from(args));
        envelope.id = id;
        envelope.run_at = run_at.map(|ms| chrono::DateTime::from_timestamp_millis(ms).unwrap());
        envelope.max_attempts = max_attempts;
        envelope.unique = unique;
        envelope
    }
}

/// JSON of any shape, some of it close to a job.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
        Just("0190b5a0-7c3e-7d2a-9f41-2b6f0e8c1a77".into()),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::hash_map(
                "id|args|run_at|max_attempts|unique|traceparent|broadcast_id|sender_id|[a-z]{0,3}",
                inner,
                0..6
            )
            .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn an_envelope_survives_its_text(envelope in envelopes()) {
        let text = envelope.to_text().unwrap();
        prop_assert_eq!(Envelope::parse(Kind::BroadcastSend, text.as_bytes()), Ok(envelope));
        prop_assert!(matches_schema(Kind::BroadcastSend, text.as_bytes()));
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::parse(Kind::BroadcastSend, &bytes);
    }

    #[test]
    fn any_json_is_taken_only_if_the_schema_agrees(value in json()) {
        let text = value.to_string();
        if Envelope::parse(Kind::BroadcastSend, text.as_bytes()).is_ok() {
            prop_assert!(matches_schema(Kind::BroadcastSend, text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_spoilt_text_never_panics(envelope in envelopes(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = envelope.to_text().unwrap().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = Envelope::parse(Kind::BroadcastSend, &text);
    }
}
