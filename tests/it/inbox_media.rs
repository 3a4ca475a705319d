//! What customers attach: fetched from whoever has it, kept in a folder or a bucket, gone with its message.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use carillon::{
    channel::webhook::{Attachment, AttachmentKind, MediaSource, WebhookEvent, What},
    config::{Config, Sources},
    inbox::media::{MediaConfig, MediaWork},
    secret::{self, Hidden, Secrets},
};

use crate::{
    fixture_db::database,
    inbox::{Scene, wrote},
    scene::run,
};

/// Plays providers and a bucket on this machine.
#[derive(Clone, Default)]
struct Elsewhere {
    /// The bucket.
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Elsewhere {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().route("/{*path}", any(answer)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

async fn answer(
    State(here): State<Elsewhere>,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let times = {
        let mut asked = here.asked.lock().unwrap();
        let times = asked.entry(path.clone()).or_default();
        *times += 1;
        *times
    };
    let authorization = headers
        .get(header::AUTHORIZATION)
        .map_or("", |value| value.to_str().unwrap());
    let png = [(header::CONTENT_TYPE, "image/png")];
    match path.as_str() {
        "file.png" => (png, "a picture").into_response(),
        "moved" => (StatusCode::FOUND, [(header::LOCATION, "/file.png")]).into_response(),
        "large" => vec![0; 5_000].into_response(),
        "broken" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "v2/bot/message/m1/content" if authorization != "Bearer the-token" => StatusCode::UNAUTHORIZED.into_response(),
        "v2/bot/message/m1/content" if times == 1 => StatusCode::ACCEPTED.into_response(),
        "v2/bot/message/m1/content" => (png, "from LINE").into_response(),
        object if object.starts_with("bucket/") => {
            assert!(
                authorization.starts_with("AWS4-HMAC-SHA256 Credential=key/"),
                "{authorization}"
            );
            let mut objects = here.objects.lock().unwrap();
            if method == Method::PUT {
                objects.insert(path.clone(), body.to_vec());
            } else {
                objects.remove(object);
            }
            StatusCode::OK.into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

struct Kept {
    scene: Scene,
    work: MediaWork,
    elsewhere: Elsewhere,
    url: String,
    folder: std::path::PathBuf,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A LINE sender, and media work as configured by `change`.
async fn kept(pool: &carillon::db::PgPool, change: impl Fn(&mut MediaConfig, &str)) -> Kept {
    let scene = Scene::new(pool, "line").await;
    let elsewhere = Elsewhere::default();
    let url = elsewhere.start().await;
    let folder = std::env::temp_dir().join(format!("carillon-media-{}", scene.shop));
    let key = secret::new_key("k1").unwrap();
    let loaded = Config::load(&Sources::of([
        ("DATABASE_URL", "postgres://localhost/x"),
        ("REDIS_URL", "redis://localhost"),
        ("CARILLON__SECRET__KEYS", key.as_str()),
    ]))
    .unwrap();
    let mut config = loaded.config.media;
    folder.to_str().unwrap().clone_into(&mut config.folder);
    config.only_public = false;
    config.max_bytes = 4_096;
    config.line_url.clone_from(&url);
    change(&mut config, &url);
    let secrets = Arc::new(Secrets::new(&[Hidden::new(key)]).unwrap());
    let sealed = secrets
        .seal(br#"{"access_token": "the-token"}"#, scene.sender.0)
        .unwrap();
    sqlx::query("update sender set credentials = $1 where id = $2")
        .bind(sealed)
        .bind(scene.sender.0)
        .execute(pool)
        .await
        .unwrap();
    let work = MediaWork::new(pool.clone(), secrets, &config).unwrap();
    Kept {
        scene,
        work,
        elsewhere,
        url,
        folder,
    }
}

fn attached(id: &str, source: MediaSource) -> WebhookEvent {
    let mut event = wrote("U1", id, "look", 0);
    if let What::Message(message) = &mut event.what {
        message.attachments = vec![Attachment {
            kind: AttachmentKind::Image,
            source: Some(source),
            label: None,
        }];
    }
    event
}

impl Kept {
    async fn states(&self) -> Vec<String> {
        self.scene
            .get("select coalesce(array_agg(concat_ws(' ', m.provider_id, d.state, d.content_type, d.size_bytes, d.reason) order by d.id), '{}')
                    from media d join message m on m.id = d.message_id")
            .await
    }

    async fn work_through(&self) {
        while self.work.step().await.unwrap() > 0 {}
    }

    fn files(&self) -> Vec<String> {
        let folder = self.folder.join(self.scene.sender.to_string());
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        entries
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect()
    }
}

#[tokio::test]
async fn files_are_fetched_kept_in_the_folder_and_gone_with_their_message() {
    let db = database().await;
    let kept = kept(&db.pool, |_, _| {}).await;
    let at = |path: &str| MediaSource::Url(format!("{}/{path}", kept.url));
    kept.scene
        .apply(&[
            attached("a", at("file.png")),
            attached("b", at("moved")),
            attached("c", at("large")),
            attached("d", at("missing")),
            attached("e", at("broken")),
            attached("f", MediaSource::ProviderId("m1".to_owned())),
        ])
        .await;
    kept.work_through().await;
    let states = kept.states().await;
    assert_eq!(
        states,
        [
            "a stored image/png 9",
            "b failed it is somewhere else",
            "c failed it is larger than media.max_bytes",
            "d failed it is gone",
            "e pending the answer was 500",
            "f pending not ready yet",
        ]
    );
    assert_eq!(kept.elsewhere.asked("broken"), 1, "tried again later, not at once");
    run(&db.pool, "update media set due_at = now() where due_at is not null").await;
    kept.work_through().await;
    assert_eq!(kept.states().await[5], "f stored image/png 9");
    let mut files = kept.files();
    files.sort();
    assert_eq!(files, ["a picture", "from LINE"]);
    let unsent = WebhookEvent {
        what: What::Unsent {
            message_id: "a".to_owned(),
        },
        ..wrote("U1", "u", "", 9)
    };
    kept.scene.apply(&[unsent]).await;
    kept.work_through().await;
    assert_eq!(kept.files(), ["from LINE"]);
    run(&db.pool, "delete from customer").await;
    kept.work_through().await;
    assert_eq!(kept.files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_bucket_keeps_and_deletes_them() {
    let db = database().await;
    let kept = kept(&db.pool, |config, url| {
        "bucket".clone_into(&mut config.s3_bucket);
        url.clone_into(&mut config.s3_endpoint_url);
        "ap-northeast-1".clone_into(&mut config.s3_region);
        "key".clone_into(&mut config.s3_access_key);
        config.s3_secret_key = Hidden::new("secret");
    })
    .await;
    kept.scene
        .apply(&[attached("a", MediaSource::Url(format!("{}/file.png", kept.url)))])
        .await;
    kept.work_through().await;
    let name: String = kept.scene.get("select stored_as from media").await;
    assert_eq!(
        kept.elsewhere
            .objects
            .lock()
            .unwrap()
            .get(&format!("bucket/{name}"))
            .map(Vec::as_slice),
        Some(b"a picture".as_slice())
    );
    run(&db.pool, "delete from customer").await;
    kept.work_through().await;
    assert!(kept.elsewhere.objects.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nobody_makes_a_worker_ask_inside_its_own_network() {
    let db = database().await;
    let kept = kept(&db.pool, |config, _| config.only_public = true).await;
    let inside = kept.url.replace("http:", "https:");
    kept.scene
        .apply(&[
            attached("a", MediaSource::Url(format!("{}/file.png", kept.url))),
            attached("b", MediaSource::Url(format!("{inside}/file.png"))),
            attached("c", MediaSource::Url(inside.replace("127.0.0.1", "localhost"))),
            attached(
                "d",
                MediaSource::Url("https://169.254.169.254/latest/meta-data".to_owned()),
            ),
        ])
        .await;
    kept.work_through().await;
    let never = "failed not a public https address";
    assert_eq!(
        kept.states().await,
        [
            format!("a {never}"),
            format!("b {never}"),
            "c pending no connection".to_owned(),
            format!("d {never}"),
        ]
    );
    assert!(kept.elsewhere.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_file_that_takes_down_its_workers_is_given_up() {
    let db = database().await;
    let kept = kept(&db.pool, |_, _| {}).await;
    let source = MediaSource::Url(format!("{}/file.png", kept.url));
    kept.scene.apply(&[attached("k", source)]).await;
    // As often as may be, and nobody lived to say how it ended.
    run(&db.pool, "update media set attempts = 100, due_at = now()").await;
    kept.work_through().await;
    let states = kept.states().await;
    assert_eq!(
        states,
        ["k failed it took down its worker, or ran out of time, again and again"]
    );
    assert_eq!(kept.elsewhere.asked("file.png"), 0);
}
