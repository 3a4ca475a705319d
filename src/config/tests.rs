#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{io::Write as _, path::PathBuf};

use super::*;

const KEY: &str = "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// The least a working installation sets, and what a test adds to it.
fn sources(more: &[(&str, &str)]) -> Sources {
    let least = [
        ("DATABASE_URL", "postgres://carillon:swordfish@db.example/carillon"),
        ("REDIS_URL", "redis://:swordfish@redis.example:6379"),
        ("CARILLON__SECRET__KEYS", KEY),
    ];
    Sources::of(least.into_iter().chain(more.iter().copied()))
}

/// A configuration file that goes away with the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("carillon-{}.toml", uuid::Uuid::now_v7()));
        std::fs::File::create(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn problems(sources: &Sources) -> Vec<Problem> {
    Config::load(sources).expect_err("was accepted").0
}

#[test]
fn the_defaults_are_complete_and_every_key_has_a_comment() {
    let loaded = Config::load(&sources(&[])).unwrap();
    assert_eq!(loaded.config.database.pool_worker, 5);
    assert_eq!(loaded.config.redis.hash_tag(), "{carillon}");
    let mut commented = false;
    for line in DEFAULT.lines() {
        if line.starts_with('#') {
            commented = true;
        } else if line.is_empty() || line.starts_with('[') {
            commented = false;
        } else {
            // A group of keys may share one comment above it.
            assert!(commented, "no comment above: {line}");
        }
    }
}

#[test]
fn environment_wins_over_file_and_file_over_default_and_platform_variables_over_all() {
    let file = TempFile::new("[web]\nport = 1111\nmax_body_bytes = 2222\n[database]\nurl = \"postgres://file/x\"\n");
    let env = [("CARILLON_CONFIG", file.path()), ("CARILLON__WEB__PORT", "3333")];
    let loaded = Config::load(&sources(&env)).unwrap();
    assert_eq!((loaded.config.web.port, loaded.config.web.max_body_bytes), (3333, 2222));
    assert_eq!(loaded.config.web.request_timeout_secs, 15);
    assert!(loaded.config.database.url.expose().contains("db.example"));
    let origin = |key: &str| {
        loaded
            .values
            .iter()
            .find(|value| value.key == key)
            .unwrap()
            .origin
            .to_string()
    };
    assert_eq!(origin("web.max_body_bytes"), format!("{} line 3", file.path()));
    assert_eq!(origin("web.port"), "environment CARILLON__WEB__PORT");
    assert_eq!(origin("database.url"), "environment DATABASE_URL");
    assert_eq!(origin("log.format"), "default");

    let loaded = Config::load(&sources(&[("CARILLON__WEB__PORT", "3333"), ("PORT", "4444")])).unwrap();
    assert_eq!(loaded.config.web.port, 4444);
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_origin() {
    let file =
        TempFile::new("[web]\nport = \"eighty\"\n\n[database]\npool_wep = 3\npool_worker = 0\n[nonsense]\nx = 1\n");
    let env = [
        ("CARILLON_CONFIG", file.path()),
        ("CARILLON__LOG__FORMAT", "xml"),
        ("CARILLON__LOG__FILTER", "carillon=loud"),
        ("CARILLON__REDIS__KEY_PREFIX", "{a}"),
        ("CARILLON__WEB__REQUEST_TIMEOUT_SECS", "soon"),
        ("CARILLON__DATABASE", "x"),
        ("PORT", "70000"),
    ];
    let errors = ConfigErrors(problems(&sources(&env)));
    let text = errors.to_string();
    let expected = [
        ("web.port", "is a text, not a whole number"),
        ("database.pool_wep", "did you mean database.pool_web?"),
        ("database.pool_worker", "0 is out of range"),
        ("nonsense.x", "is not a key"),
        ("log.format", "xml"),
        ("log.filter", "carillon=loud"),
        ("redis.key_prefix", "{a}"),
        ("web.request_timeout_secs", "\"soon\" is not a whole number"),
        ("database", "it is a section"),
        ("web.port", "70000"),
    ];
    for (key, part) in expected {
        let found = errors
            .0
            .iter()
            .any(|problem| problem.key == key && format!("{} {}", problem.what, problem.fix).contains(part));
        assert!(found, "{key}: {part}\n{text}");
    }
    assert_eq!(errors.0.len(), expected.len(), "{text}");
    assert!(text.contains(&format!("web.port ({} line 2)", file.path())), "{text}");
    assert!(text.contains("environment CARILLON__LOG__FORMAT"), "{text}");
    assert!(text.lines().count() <= 24, "more than one screen:\n{text}");
}

#[test]
fn what_must_be_set_is_named_with_the_variable_to_set() {
    let text = ConfigErrors(problems(&Sources::default())).to_string();
    for part in ["DATABASE_URL", "REDIS_URL", "CARILLON__SECRET__KEYS"] {
        assert!(text.contains(part), "{text}");
    }
    // A platform may set a variable to nothing.
    assert_eq!(problems(&sources(&[("DATABASE_URL", "")])).len(), 1);
}

#[test]
fn no_secret_is_ever_shown() {
    let loaded = Config::load(&sources(&[(
        "CARILLON__WEB__PUBLIC_URL",
        "https://me:swordfish@shop.example/?k=swordfish",
    )]))
    .unwrap();
    let shown = format!("{:?} {:?}", loaded.config.database, loaded.values);
    assert!(!shown.contains("swordfish"), "{shown}");
    assert!(!format!("{:?}", loaded.values).contains("AAAAAAA"), "{shown}");
    assert!(shown.contains("db.example"), "the host may be shown: {shown}");

    let file = TempFile::new("[secret]\nkeys = \"swordfish\"\n");
    let broken = TempFile::new("[secret]\nkeys = [\"swordfish\n");
    for env in [
        [
            ("CARILLON_CONFIG", file.path()),
            ("CARILLON__SECRET__KEYS", "swordfish"),
        ],
        [
            ("CARILLON_CONFIG", broken.path()),
            ("DATABASE_URL", "mysql://swordfish"),
        ],
        [
            ("DATABASE_URL", "swordfish"),
            ("CARILLON__SECRET__KEYS", "k1:swordfish,k2:swordfish"),
        ],
        [("REDIS_URL", "swordfish"), ("CARILLON__SECRET__KEYS", "[swordfish")],
    ] {
        let errors = ConfigErrors(problems(&sources(&env)));
        assert!(!format!("{errors} {errors:?}").contains("swordfish"), "{errors}");
    }
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_named() {
    let missing = &problems(&sources(&[("CARILLON_CONFIG", "/nowhere/at-all.toml")]))[..];
    assert!(
        matches!(missing, [problem] if problem.origin.to_string() == "/nowhere/at-all.toml"),
        "{missing:?}"
    );
    let file = TempFile::new("[web]\nport = 1\nport = = 2\n");
    let broken = &problems(&sources(&[("CARILLON_CONFIG", file.path())]))[..];
    assert!(
        matches!(broken, [problem] if problem.origin.to_string().ends_with("line 3")),
        "{broken:?}"
    );
}

#[test]
fn lists_are_read_from_the_environment_with_commas_or_as_toml() {
    let second = "k2:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    for text in [format!("{second}, {KEY}"), format!("[\"{second}\", \"{KEY}\"]")] {
        let loaded = Config::load(&sources(&[("CARILLON__SECRET__KEYS", &text)])).unwrap();
        assert_eq!(loaded.config.secret.keys.len(), 2);
    }
}

#[test]
fn the_standard_variables_of_opentelemetry_are_obeyed_and_their_secrets_hidden() {
    let off = Config::load(&sources(&[])).unwrap().config.otel;
    assert_eq!((off.endpoint_url.expose(), off.service_name.as_str()), ("", "carillon"));
    let env = [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://user:swordfish@collector.example",
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20swordfish,x-tenant=7",
        ),
        ("OTEL_SERVICE_NAME", "shop-messages"),
    ];
    let loaded = Config::load(&sources(&env)).unwrap();
    let otel = &loaded.config.otel;
    assert_eq!((otel.headers.len(), otel.service_name.as_str()), (2, "shop-messages"));
    assert!(!format!("{:?} {:?}", loaded.values, otel).contains("swordfish"));
    let wrong = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "swordfish"),
    ];
    let said = format!("{:?}", problems(&sources(&wrong)));
    assert!(said.contains("otel.endpoint_url") && said.contains("otel.headers") && !said.contains("swordfish"));
}
