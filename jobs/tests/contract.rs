//! The committed schemas and vectors are the contract for producers in other languages; this keeps them true, keeps the
//! parser and the schema of one mind, and keeps `docs/enqueue.md` complete.
//!
//! `CARILLON_BLESS=1 cargo test -p carillon-jobs` writes the schemas and the verdicts anew after a change that was meant.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use carillon_jobs::{ContractError, Envelope, Job, Kind, MAX_TEXT_BYTES, TraceParent};
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};

/// What a schema cannot say; in everything else parser and schema agree.
const BEYOND_SCHEMA: [(&str, &str); 4] = [
    ("duplicate-field", "validators see the last of two fields"),
    ("duplicate-field-in-args", "validators see the last of two fields"),
    ("run-at-too-far", "a schema knows no clock"),
    ("traceparent-nested-too-deep", "a schema counts no brackets"),
];

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

static VALIDATORS: LazyLock<BTreeMap<Kind, Validator>> = LazyLock::new(|| {
    let validator = |kind: Kind| {
        jsonschema::options()
            .should_validate_formats(true)
            .build(&kind.schema().to_value())
            .unwrap()
    };
    Kind::ALL.iter().map(|kind| (*kind, validator(*kind))).collect()
});

/// `None` when a validator never sees it: it is no JSON.
fn schema_takes(kind: Kind, text: &[u8]) -> Option<bool> {
    let value: Value = serde_json::from_slice(text).ok()?;
    Some(VALIDATORS[&kind].is_valid(&value))
}

fn matches_schema(kind: Kind, text: &[u8]) -> bool {
    schema_takes(kind, text) == Some(true)
}

#[test]
fn schemas_are_those_of_the_types() {
    for kind in Kind::ALL {
        let mut text = serde_json::to_string_pretty(&kind.schema()).unwrap();
        text.push('\n');
        keep(&folder(&format!("schemas/{kind}.json")), &text);
    }
}

/// One line of `vectors.json`.
fn vector(kind: Kind, sort: &str, name: &str, text: &[u8]) -> Value {
    let mut vector = json!({"file": format!("{sort}/{name}.json")});
    let schema = match schema_takes(kind, text) {
        Some(true) => "taken",
        Some(false) => "refused",
        None => "not json",
    };
    match Envelope::parse(kind, text) {
        Ok(envelope) => {
            assert_eq!(envelope.job.kind(), kind);
            vector["verdict"] = "taken".into();
        }
        Err(error) => {
            vector["verdict"] = "refused".into();
            vector["error"] = error.to_string().into();
            if let ContractError::Field { field, .. } = error {
                vector["field"] = field.into();
            }
        }
    }
    vector["schema"] = schema.into();
    if let Some((_, why)) = BEYOND_SCHEMA.iter().find(|(beyond, _)| *beyond == name) {
        vector["beyond_schema"] = (*why).into();
    }
    vector
}

/// What a reader looks for comes first.
fn in_order(vector: &Value) -> String {
    let fields = ["file", "verdict", "schema", "beyond_schema", "field", "error"];
    let written = fields.map(|field| Some(format!("{}: {}", json!(field), vector.get(field)?)));
    written.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[test]
fn every_vector_has_the_verdict_of_its_folder_from_parser_and_schema_alike() {
    for kind in Kind::ALL {
        let mut lines = Vec::new();
        for (sort, verdict) in [("valid", "taken"), ("invalid", "refused")] {
            for (name, text) in examples(*kind, sort) {
                let vector = vector(*kind, sort, &name, &text);
                assert_eq!(vector["verdict"], verdict, "{name}: {vector}");
                let beyond = vector.get("beyond_schema").is_some();
                let same = vector["schema"] == verdict || (verdict == "refused" && vector["schema"] == "not json");
                assert!(
                    same != beyond,
                    "{name}: parser and schema disagree, or need not: {vector}"
                );
                assert!(
                    !vector["error"].as_str().unwrap_or_default().contains("secret"),
                    "{name}: the error repeats what the text contained"
                );
                lines.push(format!("  {{{}}}", in_order(&vector)));
            }
        }
        let list = format!("[\n{}\n]\n", lines.join(",\n"));
        keep(&folder(&format!("examples/{kind}/vectors.json")), &list);
    }
}

/// The reference for people: `docs/enqueue.md`.
#[test]
fn the_reference_names_every_field_and_its_examples_are_taken() {
    let page = fs::read_to_string(folder("../docs/enqueue.md")).unwrap();
    for kind in Kind::ALL {
        assert!(page.contains(&format!("### `{kind}`")), "no section on {kind}");
        let schema = kind.schema().to_value();
        let payload = schema["$defs"].as_object().unwrap().values();
        for properties in payload.map(|def| &def["properties"]).chain([&schema["properties"]]) {
            for field in properties.as_object().into_iter().flatten().map(|(field, _)| field) {
                assert!(page.contains(&format!("| `{field}` |")), "{field} is not described");
            }
        }
    }
    let examples: Vec<&str> = page
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 3, "where are the examples?");
    for example in examples {
        let read = Envelope::parse(Kind::BroadcastSend, example.as_bytes());
        assert!(read.is_ok_and(|read| !read.traceparent_unreadable), "{example}");
    }
}

#[test]
fn names_are_unique_and_parse() {
    for kind in Kind::ALL {
        assert_eq!(kind.name().parse::<Kind>().unwrap(), *kind);
        assert!(kind.policy().max_attempts > 0 && kind.policy().lease_secs > 0);
    }
    let error = "no-such".parse::<Kind>().unwrap_err().to_string();
    assert_eq!(
        error,
        "`no-such` is not a kind of job; kinds are broadcast-send, monthly-token-refill, audit, top-up-settlement, webhook-ingest, media-fetch"
    );
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
        trace in proptest::option::of((1..=u128::MAX, 1..=u64::MAX, any::<u8>())),
        unique in proptest::option::of("[^\\x00-\\x1f\\x7f]{1,200}"),
    ) -> Envelope {
        let args = carillon_jobs::BroadcastSend {
            broadcast_id: carillon_jobs::BroadcastId(uuid::Uuid::from_u128(broadcast)),
            sender_id: sender.map(|n| carillon_jobs::SenderId(uuid::Uuid::from_u128(n))),
        };
        let mut envelope = Envelope::new(Job::from(args));
        envelope.id = id;
        envelope.run_at = run_at.map(|ms| chrono::DateTime::from_timestamp_millis(ms).unwrap());
        envelope.max_attempts = max_attempts;
        envelope.unique = unique;
        envelope.traceparent = trace.map(|(trace_id, parent_id, flags)| TraceParent { trace_id, parent_id, flags });
        envelope
    }
}

/// JSON of any shape.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::hash_map("[a-z_]{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Mostly what belongs there, sometimes nearly, sometimes anything.
fn mostly(right: impl Strategy<Value = Value> + 'static, nearly: &'static [&'static str]) -> BoxedStrategy<Value> {
    let near = proptest::sample::select(nearly).prop_map(|text| serde_json::from_str(text).unwrap());
    prop_oneof![6 => right, 3 => near, 1 => json()].boxed()
}

fn uuids() -> BoxedStrategy<Value> {
    let right = any::<u128>().prop_map(|n| uuid::Uuid::from_u128(n).to_string().into());
    mostly(
        right,
        &[
            r#""0190B5A0-7C3E-7D2A-9F41-2B6F0E8C1A77""#,
            r#""0190b5a07c3e7d2a9f412b6f0e8c1a77""#,
            r#""{0190b5a0-7c3e-7d2a-9f41-2b6f0e8c1a77}""#,
            r#""0190b5a0-7c3e-7d2a-9f41-2b6f0e8c1a7""#,
            r#""0190b5a-07c3e-7d2a-9f41-2b6f0e8c1a77""#,
            "null",
        ],
    )
}

fn times() -> BoxedStrategy<Value> {
    // Nothing ahead of now: a schema knows no clock.
    let shape = "(1[0-9]{3}|200[0-9])-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,12})?(Z|z|[+-][01][0-9]:[0-5][0-9])";
    mostly(
        shape.prop_map(Into::into),
        &[
            r#""2026-01-31T09:00:00""#,
            r#""2026-01-31""#,
            r#""2026-01-31T09:00Z""#,
            r#""2026-01-31T09:00:00+08""#,
            r#""2026-01-31T09:00:00.Z""#,
            r#"" 2026-01-31T09:00:00Z""#,
            r#""2026-1-31T9:00:00Z""#,
            r#""２026-01-31T09:00:00Z""#,
            "null",
            "1767225600",
        ],
    )
}

/// A job as a careless producer writes it: every field there or not, right, nearly right or anything.
fn jobs() -> impl Strategy<Value = Value> {
    let traces = any::<(u128, u64, u8)>().prop_map(|(t, p, f)| format!("00-{t:032x}-{p:016x}-{f:02x}").into());
    let maybe = |name: &'static str, value: BoxedStrategy<Value>| {
        proptest::option::of(value).prop_map(move |value| value.map(|value| (name.to_owned(), value)))
    };
    let object = |fields: Vec<BoxedStrategy<Option<(String, Value)>>>| {
        fields.prop_map(|fields| Value::Object(fields.into_iter().flatten().collect()))
    };
    let args = object(vec![
        uuids().prop_map(|id| Some(("broadcast_id".to_owned(), id))).boxed(),
        maybe("sender_id", uuids()).boxed(),
        proptest::option::weighted(0.1, ("[a-z_]{1,9}", json())).boxed(),
    ]);
    object(vec![
        mostly(args, &["{}", "[]", "null"])
            .prop_map(|args| Some(("args".to_owned(), args)))
            .boxed(),
        maybe(
            "id",
            mostly(
                "[!-~]{1,128}".prop_map(Into::into),
                &[r#""""#, r#""a b""#, r#""a\n""#, "null", "7"],
            ),
        )
        .boxed(),
        maybe("run_at", times()).boxed(),
        maybe(
            "max_attempts",
            mostly(
                (1..=100_u32).prop_map(Into::into),
                &[
                    "0",
                    "101",
                    "3.0",
                    "100.0",
                    "2.5",
                    "-1",
                    "-0.0",
                    "1e1",
                    "4294967297",
                    "1e300",
                    "null",
                    "\"3\"",
                ],
            ),
        )
        .boxed(),
        maybe(
            "unique",
            mostly(
                ".{1,200}".prop_map(Into::into),
                &[r#""""#, r#""a\u0085""#, r#""a\n""#, r#""\u007f""#, "null"],
            ),
        )
        .boxed(),
        maybe("traceparent", mostly(traces, &["null", "false", r#""00""#, "[]"])).boxed(),
        proptest::option::weighted(0.05, ("[a-zA-Z_]{1,9}", json())).boxed(),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

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
    fn parser_and_schema_agree_on_any_job_a_careless_producer_writes(job in jobs()) {
        let text = job.to_string();
        let parsed = Envelope::parse(Kind::BroadcastSend, text.as_bytes());
        prop_assert_eq!(parsed.is_ok(), matches_schema(Kind::BroadcastSend, text.as_bytes()), "{}: {:?}", text, parsed.err());
    }

    #[test]
    fn parser_and_schema_agree_on_any_json(value in json()) {
        let text = value.to_string();
        let taken = Envelope::parse(Kind::BroadcastSend, text.as_bytes()).is_ok();
        prop_assert_eq!(taken, matches_schema(Kind::BroadcastSend, text.as_bytes()), "{}", text);
    }

    #[test]
    fn a_spoilt_text_never_panics(envelope in envelopes(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = envelope.to_text().unwrap().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = Envelope::parse(Kind::BroadcastSend, &text);
    }
}
