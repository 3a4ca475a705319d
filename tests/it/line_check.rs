//! A LINE account's set-up, asked of the sandbox and shown by a test event that really comes to our own web process.

use carillon::{
    app::ProcessKind,
    channel::{Channels, Expected, Finding, FindingState as Verdict, Sender},
};
use carillon_jobs::SenderId;
use carillon_sandbox::{Channel as Provider, Fault, FaultKind, LINE_CHANNEL_ID, LINE_CHANNEL_SECRET, LINE_TOKEN};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::webhook_scene::Scene;

struct Setup {
    scene: Scene,
    channels: Channels,
    url: String,
}

impl Setup {
    /// Our web process listens, and the account's webhook is set to it.
    async fn new() -> Self {
        let scene = Scene::new(&[]).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhooks/line/{}", listener.local_addr().unwrap(), scene.line);
        let web = scene.web.clone();
        tokio::spawn(async move { axum::serve(listener, web).await });
        let channels = Channels::new(&scene.world.app(ProcessKind::Web).config.channel).unwrap();
        let setup = Self { scene, channels, url };
        setup.webhook(&setup.url, true);
        setup
    }

    fn webhook(&self, url: &str, active: bool) {
        assert!(
            self.scene
                .world
                .sandbox
                .handle()
                .set_line_webhook(LINE_TOKEN, url, active)
        );
    }

    async fn findings(&self, credentials: &Value) -> Vec<Finding> {
        let sender = Sender::parse(
            SenderId(self.scene.line),
            carillon::channel::Channel::Line,
            &credentials.to_string(),
        );
        let expected = Expected {
            webhook_url: Some(&self.url),
            mend: false,
        };
        self.channels.check(&sender.unwrap(), expected).await.unwrap().findings
    }

    async fn verdicts(&self, credentials: &Value) -> Vec<(&'static str, Verdict)> {
        let findings = self.findings(credentials).await;
        for finding in &findings {
            let told = format!("{}{}", finding.zh, finding.en);
            assert!(
                !told.contains(LINE_TOKEN) && !told.contains(LINE_CHANNEL_SECRET),
                "{told}"
            );
            assert!(
                finding.zh.chars().any(|c| ('\u{4e00}'..'\u{9fff}').contains(&c)),
                "{told}"
            );
        }
        findings.iter().map(|finding| (finding.id, finding.state)).collect()
    }
}

fn credentials(id: &str, secret: &str, token: &str) -> Value {
    json!({"channel_id": id, "channel_secret": secret, "access_token": token})
}

fn right() -> Value {
    credentials(LINE_CHANNEL_ID, LINE_CHANNEL_SECRET, LINE_TOKEN)
}

const GOOD: Verdict = Verdict::Good;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_is_set_up_right_is_good_all_through() {
    let setup = Setup::new().await;
    assert_eq!(
        setup.verdicts(&right()).await,
        [
            ("access_token", GOOD),
            ("channel_id", GOOD),
            ("account", GOOD),
            ("chat_mode", GOOD),
            ("webhook", GOOD),
            ("channel_secret", GOOD)
        ]
    );
    // The test event says nothing, and is no message.
    assert_eq!(
        setup
            .scene
            .world
            .sandbox
            .handle()
            .channel_summary(Provider::Line)
            .messages,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thing_that_is_wrong_is_named_and_nothing_else() {
    let setup = Setup::new().await;
    let verdict = |verdicts: &[(&'static str, Verdict)], of: &str| {
        verdicts
            .iter()
            .find(|(what, _)| *what == of)
            .map(|(_, verdict)| *verdict)
    };
    // A token nobody knows: nothing else can be asked.
    let told = setup
        .verdicts(&credentials(LINE_CHANNEL_ID, LINE_CHANNEL_SECRET, "nobody"))
        .await;
    assert_eq!(told, [("access_token", Verdict::Bad)]);
    // Another channel's id.
    let told = setup
        .verdicts(&credentials("2000000999", LINE_CHANNEL_SECRET, LINE_TOKEN))
        .await;
    assert_eq!(
        told.iter().filter(|(_, verdict)| *verdict != GOOD).collect::<Vec<_>>(),
        [&("channel_id", Verdict::Bad)]
    );
    // The webhook is off; somewhere else; nowhere.
    setup.webhook(&setup.url, false);
    let told = setup.verdicts(&right()).await;
    assert_eq!(
        (verdict(&told, "webhook"), verdict(&told, "channel_secret")),
        (Some(Verdict::Bad), Some(GOOD))
    );
    setup.webhook("https://elsewhere.example/line", true);
    let told = setup.verdicts(&right()).await;
    assert_eq!(
        (verdict(&told, "webhook"), verdict(&told, "channel_secret")),
        (Some(Verdict::Bad), Some(Verdict::Unknown))
    );
    // Nobody was told a secret yet: a web process believes what it knows of one for a few seconds.
    let setup = Setup::new().await;
    // What we have stored as the secret is not what LINE signs with: our own web process says so.
    setup
        .scene
        .change(
            setup.scene.line,
            &credentials(LINE_CHANNEL_ID, "0123456789abcdef0123456789abcdef", LINE_TOKEN),
        )
        .await;
    let told = setup.verdicts(&right()).await;
    assert_eq!(
        told.iter().filter(|(_, verdict)| *verdict != GOOD).collect::<Vec<_>>(),
        [&("channel_secret", Verdict::Bad)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_line_does_not_answer_is_not_known_and_never_good() {
    let setup = Setup::new().await;
    let handle = setup.scene.world.sandbox.handle();
    for (at, what) in [("verify", "access_token"), ("info", "account"), ("webhook", "webhook")] {
        for kind in [
            FaultKind::ServerError,
            FaultKind::Garbage,
            FaultKind::ResetBefore,
            FaultKind::Truncated,
        ] {
            let id = handle.set_fault(Fault::new(Provider::Line, kind).at(at)).unwrap();
            let told = setup.verdicts(&right()).await;
            assert!(told.contains(&(what, Verdict::Unknown)), "{at} {kind:?}: {told:?}");
            handle.clear_fault(id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_it_in_chinese_first_and_by_its_exit_code() {
    let setup = Setup::new().await;
    let mut env = setup.scene.world.env.clone();
    let base = setup.url.split("/webhooks").next().unwrap();
    env.insert("CARILLON__WEB__PUBLIC_URL".to_owned(), base.to_owned());
    let id = setup.scene.line.to_string();
    let good = crate::cli::run_with(&env, &["sender", "check", &id], "").await;
    assert_eq!(good.code, 0, "{good:?}");
    assert!(
        good.out.contains("Channel secret 正確") && good.out.contains("the channel secret is right"),
        "{good:?}"
    );
    setup.webhook("https://elsewhere.example/line", true);
    let wrong = crate::cli::run_with(&env, &["sender", "check", &id, "--json"], "").await;
    assert_eq!(wrong.code, 1, "{wrong:?}");
    let told: Value = serde_json::from_str(&wrong.out).unwrap();
    assert_eq!(told["findings"][4]["state"], "bad");
    let nobody = crate::cli::run_with(&env, &["sender", "check", &Uuid::now_v7().to_string()], "").await;
    assert_eq!(nobody.code, 2, "{nobody:?}");
}
