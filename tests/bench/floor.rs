//! The floor of a broadcast: the same requests and the same rows, by the bare parts.
//!
//! Requests are built beforehand, so that what is timed is the client alone: no lease, no limit, no rendering, no keys, no
//! look at the answer beyond its status. Rows go into a table with nothing but its primary key, 500 at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use carillon::{
    channel::{Channel, Content, Letterhead, Recipient, Sender, Template, delivery_key},
    config::Config,
};
use carillon_jobs::{BroadcastId, CustomerId, SenderId, ShopId};
use carillon_sandbox::{
    FCM_ACCESS_TOKEN, FCM_PROJECT, LINE_TOKEN, META_APP_SECRET, MITAKE_PASSWORD, MITAKE_USER, PAGE_ID, PAGE_TOKEN,
    PHONE_NUMBER_ID, SMTP_PASSWORD, SMTP_USER, WHATSAPP_TOKEN,
};
use lettre::{
    address::Envelope,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::AsyncSmtpConnection,
        extension::ClientId,
    },
};
use reqwest::{Client, Method, Request, header::HeaderValue};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::bed::Bed;

const BATCH: usize = 500;

/// One message as it goes over the wire.
pub struct Wire {
    customer: i64,
    to: String,
    key: Uuid,
    body: Vec<u8>,
}

/// Everything the floor needs, made once.
pub struct Floor {
    channel: Channel,
    client: Client,
    url: url::Url,
    smtp: String,
    timeout: Duration,
    /// Requests at once: as many as our worker may have.
    pub in_flight: usize,
    /// Connections that write, as our worker's.
    pub writers: usize,
}

impl Floor {
    pub fn new(bed: &Bed, channel: Channel) -> Self {
        let Config {
            channel: channels,
            delivery,
            ..
        } = bed.config();
        let (in_flight, timeout_secs, path) = match channel {
            Channel::App => (
                channels.app.in_flight,
                channels.app.timeout_secs,
                format!("/v1/projects/{FCM_PROJECT}/messages:send"),
            ),
            Channel::Email => (
                channels.email.in_flight,
                channels.email.body_timeout_secs,
                String::new(),
            ),
            Channel::Messenger => (
                channels.messenger.in_flight,
                channels.messenger.timeout_secs,
                graph_path(&channels.messenger.api_version, PAGE_ID, PAGE_TOKEN),
            ),
            Channel::Whatsapp => (
                channels.whatsapp.in_flight,
                channels.whatsapp.timeout_secs,
                graph_path(&channels.whatsapp.api_version, PHONE_NUMBER_ID, WHATSAPP_TOKEN),
            ),
            Channel::Sms => (
                channels.sms.in_flight,
                channels.sms.timeout_secs,
                "/b2c/mtk/SmSend?CharsetURL=UTF-8".to_owned(),
            ),
            Channel::Line => (
                channels.line.in_flight,
                channels.line.timeout_secs,
                "/v2/bot/message/push".to_owned(),
            ),
        };
        let mut in_flight = in_flight * delivery.parallel_slices;
        if channel == Channel::Email {
            in_flight = in_flight.min(channels.email.max_connections);
        }
        let http = channels.http;
        // As in src/channel/http.rs, except for TLS, which the sandbox does not speak.
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(http.connect_timeout_secs))
            .pool_idle_timeout(Duration::from_secs(http.idle_secs))
            .pool_max_idle_per_host(http.idle_connections)
            .http2_adaptive_window(true)
            .user_agent("carillon/bare")
            .build()
            .unwrap();
        Self {
            channel,
            client,
            url: format!("{}{path}", bed.sandbox.http).parse().unwrap(),
            smtp: bed.sandbox.smtp.clone(),
            timeout: Duration::from_secs(timeout_secs),
            in_flight,
            writers: delivery.parallel_slices,
        }
    }

    /// The messages of a broadcast, rendered by the product's own templates so that they are byte for byte as long.
    pub async fn messages(&self, bed: &Bed, content: &Value) -> Arc<Vec<Wire>> {
        let broadcast = BroadcastId::new();
        let sender = Sender::parse(SenderId(Uuid::nil()), self.channel, &bed.credentials(self.channel)).unwrap();
        let template = Template::compile(
            &Content::parse(content).unwrap(),
            &Letterhead {
                broadcast,
                shop: ShopId(bed.shop),
                shop_name: "好日子選物",
                shop_url: Some("https://shop.example"),
                sms_sender_name: "EasyStore",
                sender: &sender,
            },
        );
        let rows: Vec<(i64, String, String, String)> = sqlx::query_as(
            "select c.id, a.address, c.first_name, c.last_name from customer c join address a on a.customer_id = c.id
              join sender s on s.id = a.sender_id where s.channel = $1 order by c.id",
        )
        .bind(self.channel)
        .fetch_all(&bed.pool)
        .await
        .unwrap();
        let wires = rows.into_iter().map(|(customer, to, first, last)| {
            let key = delivery_key(broadcast, self.channel, CustomerId(customer));
            let recipient = Recipient {
                first_name: Some(&first),
                last_name: Some(&last),
                customer: CustomerId(customer),
                key,
                unsubscribe_url: "https://shop.example/u/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            };
            let parts = template.render(&recipient);
            let (before, after) = match self.channel {
                Channel::App => (format!(r#"{{"message":{{"token":"{to}","#), "}}"),
                Channel::Email => (format!("Date: Sat, 01 Aug 2026 08:00:00 +0000\r\nTo: {to}\r\n"), ""),
                Channel::Messenger => (format!(r#"{{"recipient":{{"id":"{to}"}},"#), "}"),
                Channel::Whatsapp => (
                    format!(r#"{{"messaging_product":"whatsapp","recipient_type":"individual","to":"{to}","#),
                    "}",
                ),
                _ => (format!(r#"{{"to":"{to}","#), "}"),
            };
            let body = match self.channel {
                Channel::Sms => sms_form(&to, parts.body(), key),
                _ => [before.as_bytes(), parts.body(), after.as_bytes()].concat(),
            };
            Wire { customer, to, key, body }
        });
        Arc::new(wires.collect())
    }

    /// Sends them all; returns the seconds it took. Panics if one is not accepted.
    pub async fn send(self: &Arc<Self>, wires: &Arc<Vec<Wire>>) -> f64 {
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let tasks: Vec<_> = (0..self.in_flight)
            .map(|_| {
                let (floor, wires, next) = (Arc::clone(self), Arc::clone(wires), Arc::clone(&next));
                tokio::spawn(async move {
                    match floor.channel {
                        Channel::Email => floor.send_mails(&wires, &next).await,
                        _ => floor.send_requests(&wires, &next).await,
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        started.elapsed().as_secs_f64()
    }

    async fn send_requests(&self, wires: &[Wire], next: &AtomicUsize) {
        let token = match self.channel {
            Channel::App => FCM_ACCESS_TOKEN,
            Channel::Messenger => PAGE_TOKEN,
            Channel::Whatsapp => WHATSAPP_TOKEN,
            _ => LINE_TOKEN,
        };
        let authorization = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        while let Some(wire) = wires.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut request = Request::new(Method::POST, self.url.clone());
            let headers = request.headers_mut();
            if self.channel == Channel::Sms {
                headers.insert(
                    "content-type",
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
            } else {
                headers.insert("authorization", authorization.clone());
                headers.insert("content-type", HeaderValue::from_static("application/json"));
            }
            if self.channel == Channel::Line {
                let mut buffer = Uuid::encode_buffer();
                let key: &str = wire.key.hyphenated().encode_lower(&mut buffer);
                headers.insert("x-line-retry-key", HeaderValue::from_str(key).unwrap());
            }
            *request.body_mut() = Some(wire.body.clone().into());
            *request.timeout_mut() = Some(self.timeout);
            let answer = self.client.execute(request).await.unwrap();
            assert_eq!(answer.status(), 200, "the sandbox refuses a bare request");
            answer.bytes().await.unwrap();
        }
    }

    async fn send_mails(&self, wires: &[Wire], next: &AtomicUsize) {
        let stream = tokio::net::TcpStream::connect(&self.smtp).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let hello = ClientId::Domain("localhost".to_owned());
        let mut smtp = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello)
            .await
            .unwrap();
        let login = Credentials::new(SMTP_USER.to_owned(), SMTP_PASSWORD.to_owned());
        smtp.auth(&[Mechanism::Plain, Mechanism::Login], &login).await.unwrap();
        let from: lettre::Address = "news@shop.example".parse().unwrap();
        while let Some(wire) = wires.get(next.fetch_add(1, Ordering::Relaxed)) {
            let envelope = Envelope::new(Some(from.clone()), vec![wire.to.parse().unwrap()]).unwrap();
            smtp.send(&envelope, &wire.body).await.unwrap();
        }
        let _ = smtp.quit().await;
    }

    /// An empty table, like ours but with nothing around it.
    pub async fn prepare(&self, pool: &PgPool) {
        for sql in [
            "drop table if exists bare_result",
            "create table bare_result (like delivery_result including defaults including constraints including indexes)",
            "checkpoint",
        ] {
            sqlx::raw_sql(sql).execute(pool).await.unwrap();
        }
    }

    /// Appends a result for each; returns the seconds it took.
    pub async fn write(&self, pool: &PgPool, wires: &Arc<Vec<Wire>>) -> f64 {
        let broadcast = Uuid::now_v7();
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let tasks: Vec<_> = (0..self.writers)
            .map(|_| {
                let (pool, wires, next, channel) = (pool.clone(), Arc::clone(wires), Arc::clone(&next), self.channel);
                tokio::spawn(async move {
                    let mut connection = pool.acquire().await.unwrap();
                    while let Some(batch) = wires.chunks(BATCH).nth(next.fetch_add(1, Ordering::Relaxed)) {
                        append(&mut connection, broadcast, channel, batch).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        started.elapsed().as_secs_f64()
    }
}

/// Where a page's or a number's messages go, with the proof that goes with its token.
fn graph_path(version: &str, id: &str, token: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, META_APP_SECRET.as_bytes());
    let proof = ring::hmac::sign(&key, token.as_bytes());
    let digits = proof.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let proof: String = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
    format!("/{version}/{id}/messages?appsecret_proof={proof}")
}

/// What Mitake is sent, as long as ours.
fn sms_form(to: &str, text: &[u8], key: Uuid) -> Vec<u8> {
    let callback = format!(
        "https://shop.example/webhooks/mitake/{key}?token=callback-token-of-the-bench&mark=carillon.{}.100000",
        key.simple()
    );
    let fields = [
        ("username", MITAKE_USER),
        ("password", MITAKE_PASSWORD),
        ("dstaddr", &to.replace("+886", "0")),
        ("smbody", &std::str::from_utf8(text).unwrap().replace('\n', "\u{6}")),
        ("clientid", &key.to_string()),
        ("smsPointFlag", "1"),
        ("response", &callback),
    ];
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
        .into_bytes()
}

async fn append(connection: &mut sqlx::PgConnection, broadcast: Uuid, channel: Channel, batch: &[Wire]) {
    let customers: Vec<i64> = batch.iter().map(|wire| wire.customer).collect();
    // As long as the provider's own, and as different from each other.
    let ids: Vec<String> = batch
        .iter()
        .map(|wire| match channel {
            Channel::App => format!("projects/{FCM_PROJECT}/messages/{}", wire.key.simple()),
            Channel::Email => wire.key.simple().to_string()[..12].to_owned(),
            Channel::Messenger => format!("m_{}", wire.key.simple()),
            Channel::Whatsapp => format!("wamid.{}", wire.key.simple()),
            _ => format!("{:018}", wire.key.as_u128() % 1_000_000_000_000_000_000),
        })
        .collect();
    sqlx::query(
        "insert into bare_result (broadcast_id, channel, customer_id, state, charged_tokens, provider_id)
         select $1, $2, t.customer, 'accepted', 5, t.provider_id
           from unnest($3::bigint[], $4::text[]) as t (customer, provider_id)",
    )
    .bind(broadcast)
    .bind(channel)
    .bind(customers)
    .bind(ids)
    .execute(connection)
    .await
    .unwrap();
}
