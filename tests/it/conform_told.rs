//! What a full run said and wrote down, searched for every secret, name, address and body that was used in it.
//!
//! Where people are meant to stand is listed column by column; anywhere else they are one too many.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use url::Url;

use crate::{
    conform_scene::BODY_WORD,
    meta_scene,
    world::{KEY, World},
};

/// What stands in every first and last name, and in nothing else.
pub(crate) const NAMES: [&str; 2] = ["Xuliq", "Vorpaq"];

/// Everything that is said to a Redis, written down by itself until it ends.
pub(crate) async fn overhear(redis: &str) -> JoinHandle<String> {
    let url = Url::parse(redis).unwrap();
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"MONITOR\r\n").await.unwrap();
    let mut agreed = [0; 5];
    stream.read_exact(&mut agreed).await.unwrap();
    assert_eq!(&agreed, b"+OK\r\n");
    tokio::spawn(async move {
        let mut said = Vec::new();
        // It is killed in the end, and its connections with it.
        let _ = stream.read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).into_owned()
    })
}

/// Every column of the database in which something of the run is found that must not be told.
pub(crate) async fn columns_that_tell(world: &World) -> Vec<String> {
    let mut words: Vec<String> = secrets(world).iter().map(|secret| literally(secret)).collect();
    // What a column of bytes holds is shown in hexadecimal digits.
    words.extend(secrets(world).iter().map(|secret| hex(secret)));
    words.extend(PEOPLE.map(literally));
    words.push("(^|[^0-9.])0931[0-9]{6}([^0-9]|$)".to_owned());
    let words = words.join("|");
    let tables: Vec<String> = world
        .one(
            "select array_agg(relname::text order by relname) from pg_class
              where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition",
        )
        .await;
    let mut found = Vec::new();
    for table in tables {
        let columns: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select distinct '{table}.' || e.key from \"{table}\" t, jsonb_each_text(to_jsonb(t)) e where e.value ~ $1
              order by 1"
        )))
        .bind(&words)
        .fetch_all(world.pool())
        .await
        .unwrap();
        found.extend(columns);
    }
    found
}

/// A text as a pattern that matches nothing else.
fn literally(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if !c.is_alphanumeric() {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

fn hex(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// Everything that opens something.
pub(crate) fn secrets(world: &World) -> Vec<String> {
    let mut secrets: Vec<String> = [
        carillon_sandbox::LINE_TOKEN,
        carillon_sandbox::LINE_CHANNEL_SECRET,
        carillon_sandbox::PAGE_TOKEN,
        carillon_sandbox::META_APP_SECRET,
        carillon_sandbox::WHATSAPP_TOKEN,
        carillon_sandbox::TWILIO_AUTH_TOKEN,
        carillon_sandbox::SMTP_PASSWORD,
        meta_scene::VERIFY_TOKEN,
        KEY.trim_start_matches("test:"),
    ]
    .map(str::to_owned)
    .into();
    let password = |url: &str| Url::parse(url).ok()?.password().map(str::to_owned);
    secrets.extend(
        ["DATABASE_URL", "REDIS_URL"]
            .iter()
            .filter_map(|name| password(&world.env[*name])),
    );
    secrets.extend(key_lines());
    // As they travel: a login in base64, and what logs people in by a header.
    let basic = format!(
        "{}:{}",
        carillon_sandbox::TWILIO_SID,
        carillon_sandbox::TWILIO_AUTH_TOKEN
    );
    secrets.push(STANDARD.encode(basic));
    secrets.push("Bearer ".to_owned());
    secrets.push("appsecret_proof=".to_owned());
    secrets
}

/// The private key of the app's project, as the file writes it.
fn key_lines() -> Vec<String> {
    let file: serde_json::Value = serde_json::from_str(carillon_sandbox::FCM_DEMO_KEY_JSON).unwrap();
    let key = file["private_key"].as_str().unwrap();
    key.lines()
        .filter(|line| line.len() > 30 && !line.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

/// What stands in names, addresses and bodies, and nowhere else.
const PEOPLE: [&str; 7] = [
    NAMES[0],
    NAMES[1],
    BODY_WORD,
    "xuliq",
    "@mail.example",
    "c0ffeec0ffee",
    "7314159265",
];

/// What must not have been said, and was: a secret, a person, an address, a body.
pub(crate) fn told(said: &str, secrets: &[String]) -> Vec<String> {
    let words = secrets.iter().map(String::as_str).chain(PEOPLE);
    let mut told: Vec<String> = words.filter(|word| said.contains(word)).map(str::to_owned).collect();
    // A phone number as people type it, and as it is stored; digits before it make it the inside of a longer figure.
    for (begins, length) in [("0931", 10), ("88693", 12)] {
        told.extend(said.match_indices(begins).filter_map(|(at, _)| {
            let before = said[..at].chars().next_back();
            let digits: String = said[at..].chars().take_while(char::is_ascii_digit).collect();
            (digits.len() == length && !before.is_some_and(|c| c.is_ascii_digit() || c == '.')).then_some(digits)
        }));
    }
    if let Some(line) = said
        .lines()
        .find(|line| told.first().is_some_and(|word| line.contains(word)))
    {
        told.push(format!("first in: {line}"));
    }
    told
}

#[test]
fn what_is_told_is_found() {
    let secrets = vec!["hunter2".to_owned()];
    assert_eq!(
        told(
            "01:02:03.0931000001 INFO 20931000001 all is well at 10.988693Z",
            &secrets
        ),
        Vec::<String>::new()
    );
    for line in [
        "password=hunter2",
        "to 0931000001 failed",
        "to +886931000001",
        "Uc0ffeec0ffee01",
        "dear Xuliq7",
        "Vorpaq",
        "xuliq7@mail.example",
        "token-xuliq7:APA91b",
        "7314159265000001",
        "a body of Brillig",
    ] {
        assert!(!told(line, &secrets).is_empty(), "{line}");
    }
}
