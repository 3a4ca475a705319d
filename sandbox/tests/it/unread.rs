//! Answers that nobody read: there a sender may honestly not know what became of its message.

use std::collections::BTreeMap;
use std::time::Duration;

use carillon_sandbox::{Channel, Fault, FaultKind, LINE_TOKEN, Running};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{HEADERS, Mail, answer, http, soon, start, text, user};

/// Asks for a push and reads nothing yet.
async fn ask(running: &Running, to: u32) -> TcpStream {
    let mut stream = TcpStream::connect(running.http_addr).await.unwrap();
    let body = json!({"to": user(to), "messages": text("hello")}).to_string();
    let head = format!(
        "POST /v2/bot/message/push HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {LINE_TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    stream
}

fn slow(channel: Channel, to: String) -> Fault {
    Fault::new(channel, FaultKind::Delay).recipients([to]).delay_ms(100)
}

async fn are_unread(running: &Running, channel: Channel, recipients: &[String]) {
    let expected: BTreeMap<String, u64> = recipients.iter().map(|to| (to.clone(), 1)).collect();
    soon(async {
        while running.handle().unread(channel).len() < expected.len() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(running.handle().unread(channel), expected);
}

#[tokio::test]
async fn an_answer_that_nobody_stays_for_is_noted_and_one_that_is_read_is_not() {
    let running = start().await;
    let mut reader = ask(&running, 1).await;
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("quoteToken") {
        assert_ne!(soon(reader.read_buf(&mut read)).await.unwrap(), 0);
    }
    drop(reader);
    // Hung up before it came, and with it unopened.
    running.handle().set_fault(slow(Channel::Line, user(2))).unwrap();
    drop(ask(&running, 2).await);
    let unopened = ask(&running, 3).await;
    soon(unopened.readable()).await.unwrap();
    drop(unopened);
    are_unread(&running, Channel::Line, &[user(2), user(3)]).await;
    let told = answer(http().get(format!("{}/_sandbox/unread?channel=line", running.http_url()))).await;
    assert_eq!(told.unwrap().body, json!(format!("{}\t1\n{}\t1\n", user(2), user(3))));
    assert_eq!(running.handle().channel_summary(Channel::Line).messages, 3);
    running.handle().reset();
    assert!(running.handle().unread(Channel::Line).is_empty());
}

#[tokio::test]
async fn so_is_the_reply_to_a_mail() {
    let running = start().await;
    let mut mail = Mail::ready(&running).await;
    assert!(mail.mail("read@example.com", "hello").await.starts_with("250 "));
    drop(mail);
    let to = "unread@example.com".to_owned();
    running.handle().set_fault(slow(Channel::Smtp, to.clone())).unwrap();
    let mut mail = Mail::ready(&running).await;
    for line in ["MAIL FROM:<shop@example.com>", "RCPT TO:<unread@example.com>", "DATA"] {
        mail.say(line).await;
    }
    mail.send(format!("{HEADERS}\r\nhello\r\n.\r\n").as_bytes()).await;
    drop(mail);
    are_unread(&running, Channel::Smtp, &[to]).await;
}
