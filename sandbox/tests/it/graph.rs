//! Graph: strictness of Messenger's and WhatsApp's messages, tokens and proofs, error bodies, what can be asked.

use carillon_sandbox::{
    Account, Channel, Fault, FaultKind, META_APP_ID, META_APP_SECRET, PAGE_ID, PAGE_TOKEN, PHONE_NUMBER_ID,
    PageAccount, RateCap, Running, WHATSAPP_TOKEN,
};
use ring::hmac;
use serde_json::{Value, json};

use crate::client::{Answer, answer, http, start};

const PSID: &str = "7000000000000001";
const NUMBER: &str = "+886000000001";

fn proof(secret: &str, token: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let digest = hmac::sign(&key, token.as_bytes());
    let digits = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

async fn post(running: &Running, path: &str, token: &str, body: &Value) -> Answer {
    let proof = proof(META_APP_SECRET, token);
    let url = format!("{}/v25.0/{path}?appsecret_proof={proof}", running.http_url());
    answer(http().post(url).bearer_auth(token).json(body)).await.unwrap()
}

async fn page(running: &Running, message: Value) -> Answer {
    let body = json!({"recipient": {"id": PSID}, "messaging_type": "UPDATE", "message": message});
    post(running, &format!("{PAGE_ID}/messages"), PAGE_TOKEN, &body).await
}

async fn number(running: &Running, body: Value) -> Answer {
    let mut whole = json!({"messaging_product": "whatsapp", "to": NUMBER});
    let fields = whole.as_object_mut().unwrap();
    fields.extend(body.as_object().unwrap().clone());
    post(running, &format!("{PHONE_NUMBER_ID}/messages"), WHATSAPP_TOKEN, &whole).await
}

fn code(answer: &Answer) -> (u16, u64, u64) {
    let error = &answer.body["error"];
    let number = |name: &str| error[name].as_u64().unwrap_or(0);
    (answer.status, number("code"), number("error_subcode"))
}

#[tokio::test]
async fn a_message_is_accepted_named_and_counted() {
    let running = start().await;
    let message = json!({"text": "Hi", "metadata": "carillon.b.7"});
    for path in [format!("{PAGE_ID}/messages"), "me/messages".to_owned()] {
        let body = json!({"recipient": {"id": PSID}, "messaging_type": "RESPONSE", "message": message});
        let sent = post(&running, &path, PAGE_TOKEN, &body).await;
        assert_eq!(
            (sent.status, &sent.body["recipient_id"]),
            (200, &PSID.into()),
            "{}",
            sent.body
        );
        assert!(sent.body["message_id"].as_str().unwrap().starts_with("m_"));
    }
    let sent = number(
        &running,
        json!({"type": "text", "text": {"body": "Hi"}, "biz_opaque_callback_data": "carillon.b.7"}),
    )
    .await;
    assert_eq!(sent.status, 200, "{}", sent.body);
    assert!(sent.body["messages"][0]["id"].as_str().unwrap().starts_with("wamid."));
    assert_eq!(
        sent.body["contacts"][0],
        json!({"input": NUMBER, "wa_id": &NUMBER[1..]})
    );
    for (channel, to, times) in [(Channel::Messenger, PSID, 2), (Channel::Whatsapp, NUMBER, 1)] {
        let got = running.handle().received_by(channel, to);
        assert_eq!(
            (got.len(), got[0].marker.as_str(), got[0].text.as_str()),
            (times, "carillon.b", "Hi")
        );
    }
}

#[tokio::test]
async fn what_messenger_would_refuse_is_refused() {
    let running = start().await;
    let card = |card: Value| json!({"attachment": {"type": "template", "payload": {"template_type": "generic", "elements": [card]}}});
    let button = |title: &str, url: &str| json!([{"type": "web_url", "url": url, "title": title}]);
    let with_button = |text: &str, buttons: Value| json!({"attachment": {"type": "template", "payload": {"template_type": "button", "text": text, "buttons": buttons}}});
    let link = "https://shop.example";
    assert_eq!(page(&running, with_button("Hi", button("Go", link))).await.status, 200);
    assert_eq!(
        page(
            &running,
            card(json!({"title": "Hi", "image_url": "https://cdn.example/a.jpg"}))
        )
        .await
        .status,
        200
    );
    for message in [
        json!({}),
        json!({"text": ""}),
        json!({"text": 7}),
        json!({"text": "x".repeat(2_001)}),
        json!({"text": "Hi", "colour": "red"}),
        json!({"text": "Hi", "metadata": "x".repeat(1_001)}),
        json!({"text": "Hi", "attachment": {"type": "image", "payload": {"url": "https://cdn.example/a.jpg"}}}),
        json!({"attachment": {"type": "image", "payload": {"url": "http://cdn.example/a.jpg"}}}),
        with_button(&"x".repeat(641), button("Go", link)),
        with_button("Hi", button("a label of 21 letters", link)),
        with_button("Hi", button("Go", "shop.example")),
        with_button("Hi", json!([])),
        card(json!({"title": "x".repeat(81), "subtitle": "s"})),
        card(json!({"title": "Hi", "subtitle": "x".repeat(81)})),
        card(json!({"title": "alone"})),
    ] {
        let sent = page(&running, message.clone()).await;
        assert_eq!(code(&sent), (400, 100, 0), "{message}: {}", sent.body);
    }
    for (name, value) in [
        ("recipient", json!({"id": "U1"})),
        ("messaging_type", json!("PROMOTION")),
        ("tag", json!("HUMAN_AGENT")),
    ] {
        let mut body = json!({"recipient": {"id": PSID}, "messaging_type": "UPDATE", "message": {"text": "Hi"}});
        body[name] = value;
        let sent = post(&running, "me/messages", PAGE_TOKEN, &body).await;
        assert_eq!(code(&sent).1, 100, "{name}: {}", sent.body);
    }
    assert_eq!(running.handle().channel_summary(Channel::Messenger).messages, 2);
}

#[tokio::test]
async fn what_whatsapp_would_refuse_is_refused() {
    let running = start().await;
    let cta = |label: &str, body: &str| {
        json!({"type": "interactive", "interactive": {"type": "cta_url", "body": {"text": body},
            "action": {"name": "cta_url", "parameters": {"display_text": label, "url": "https://shop.example"}}}})
    };
    assert_eq!(number(&running, cta("Go", "Hi")).await.status, 200);
    for body in [
        json!({"type": "text"}),
        json!({"type": "text", "text": {"body": "x".repeat(4_097)}}),
        json!({"type": "text", "text": {"body": "Hi"}, "image": {"link": "https://cdn.example/a.jpg"}}),
        json!({"type": "text", "text": {"body": "Hi"}, "to": "886912345678"}),
        json!({"type": "text", "text": {"body": "Hi"}, "messaging_product": "sms"}),
        json!({"type": "text", "text": {"body": "Hi"}, "colour": "red"}),
        json!({"type": "image", "image": {"link": "https://cdn.example/a.jpg", "caption": "x".repeat(1_025)}}),
        json!({"type": "sticker", "sticker": {"id": "1"}}),
        cta("a label of 21 letters", "Hi"),
        cta("Go", &"x".repeat(1_025)),
    ] {
        let sent = number(&running, body.clone()).await;
        assert_eq!(code(&sent), (400, 100, 0), "{body}: {}", sent.body);
        assert_eq!(sent.body["error"]["error_data"]["messaging_product"], "whatsapp");
    }
    let unapproved =
        json!({"type": "template", "template": {"name": "x", "language": {"code": "zh_TW"}, "components": []}});
    assert_eq!(code(&number(&running, unapproved).await), (404, 132_001, 0));
    assert_eq!(running.handle().channel_summary(Channel::Whatsapp).messages, 1);
}

#[tokio::test]
async fn a_token_opens_its_own_account_and_only_with_its_proof() {
    let running = start().await;
    let body = json!({"recipient": {"id": PSID}, "messaging_type": "UPDATE", "message": {"text": "Hi"}});
    let url = |path: &str, query: &str| format!("{}/v25.0/{path}{query}", running.http_url());
    let path = format!("{PAGE_ID}/messages");
    let good = format!("?appsecret_proof={}", proof(META_APP_SECRET, PAGE_TOKEN));
    let foreign = format!("?appsecret_proof={}", proof("another", PAGE_TOKEN));
    for (path, query, token, expected) in [
        (path.as_str(), "", Some(PAGE_TOKEN), (400, 100, 0)),
        (&path, &foreign, Some(PAGE_TOKEN), (400, 100, 0)),
        (&path, &good, None, (400, 2500, 0)),
        (&path, &good, Some("nobody"), (401, 190, 0)),
        (
            &format!("{PHONE_NUMBER_ID}/messages"),
            &good,
            Some(PAGE_TOKEN),
            (403, 200, 0),
        ),
        ("99/messages", &good, Some(PAGE_TOKEN), (400, 100, 33)),
        (&path, &good, Some(PAGE_TOKEN), (200, 0, 0)),
    ] {
        let mut request = http().post(url(path, query)).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let sent = answer(request).await.unwrap();
        assert_eq!(code(&sent), expected, "{path}{query}: {}", sent.body);
    }
    let unversioned = http().post(format!("{}/{path}{good}", running.http_url()));
    assert_eq!(
        answer(unversioned.bearer_auth(PAGE_TOKEN).json(&body))
            .await
            .unwrap()
            .status,
        404
    );
    running.handle().revoke(Channel::Messenger, PAGE_TOKEN);
    assert_eq!(code(&page(&running, json!({"text": "Hi"})).await), (401, 190, 0));
}

#[tokio::test]
async fn faults_and_caps_answer_in_graphs_numbers() {
    let running = start().await;
    let handle = running.handle();
    let text = || json!({"text": "Hi"});
    for (fault, expected) in [
        (
            Fault::new(Channel::Messenger, FaultKind::Reply).with_reply(400, "10/2018278"),
            (400, 10, 2_018_278),
        ),
        (
            Fault::new(Channel::Messenger, FaultKind::InvalidRecipient),
            (400, 100, 2_018_001),
        ),
        (Fault::new(Channel::Messenger, FaultKind::Throttled), (400, 613, 0)),
        (Fault::new(Channel::Messenger, FaultKind::Unavailable), (503, 2, 0)),
    ] {
        handle.set_fault(fault.times(1)).unwrap();
        assert_eq!(code(&page(&running, text()).await), expected);
    }
    assert_eq!(handle.channel_summary(Channel::Messenger).messages, 0);
    assert!(
        handle
            .set_fault(Fault::new(Channel::Messenger, FaultKind::Quota))
            .is_err()
    );
    handle
        .set_fault(Fault::new(Channel::Whatsapp, FaultKind::Quota).times(1))
        .unwrap();
    let hi = || json!({"type": "text", "text": {"body": "Hi"}});
    assert_eq!(code(&number(&running, hi()).await), (400, 131_042, 0));
    let cap = RateCap {
        per_second: 1,
        burst: Some(1),
    };
    handle.set_rate_cap(Channel::Whatsapp, Some(cap));
    assert_eq!(number(&running, hi()).await.status, 200);
    assert_eq!(code(&number(&running, hi()).await), (400, 130_429, 0));
}

#[tokio::test]
async fn a_page_says_who_it_is_and_takes_a_subscription() {
    let running = start().await;
    let quiet = PageAccount {
        access_token: "second".to_owned(),
        page_id: "42".to_owned(),
        name: "Tea".to_owned(),
        app_id: Some(META_APP_ID.to_owned()),
        app_secret: None,
        needs_proof: false,
        scopes: vec!["pages_messaging".to_owned()],
        subscribed: false,
        is_primary_receiver: false,
    };
    running.handle().register(Account::Messenger(quiet)).unwrap();
    let get = async |path: &str, token: &str| {
        let url = format!("{}/v25.0/{path}", running.http_url());
        answer(http().get(url).bearer_auth(token)).await.unwrap()
    };
    assert_eq!(
        get("me?fields=id,name", "second").await.body,
        json!({"id": "42", "name": "Tea"})
    );
    assert_eq!(get("42/subscribed_apps", "second").await.body, json!({"data": []}));
    assert_eq!(code(&get("42/secondary_receivers", "second").await).1, 10);
    let url = format!(
        "{}/v25.0/42/subscribed_apps?subscribed_fields=messages",
        running.http_url()
    );
    let subscribed = answer(http().post(url).bearer_auth("second")).await.unwrap();
    assert_eq!(subscribed.body, json!({"success": true}));
    assert_eq!(
        get("42/subscribed_apps", "second").await.body["data"][0]["id"],
        META_APP_ID
    );
    let app = format!("{META_APP_ID}|{META_APP_SECRET}");
    let asked = get("debug_token?input_token=second", &app).await;
    assert_eq!(asked.body["data"]["scopes"], json!(["pages_messaging"]));
    assert_eq!(asked.body["data"]["is_valid"], true);
    let unknown = get("debug_token?input_token=nobody", &app).await;
    assert_eq!(unknown.body["data"]["is_valid"], false);
}
