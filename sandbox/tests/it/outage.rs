//! Outages: refused while they last, cut at their beginning, whole again afterwards, and only on the port asked for.

use std::time::Duration;

use carillon_sandbox::{Port, Running};
use serde_json::json;
use tokio::net::TcpStream;

use crate::client::{http, soon, start};

const LOOK: Duration = Duration::from_millis(5);

async fn refused(running: &Running) -> bool {
    let connected = TcpStream::connect(running.http_addr).await;
    connected.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

async fn health(client: &reqwest::Client, running: &Running) -> reqwest::Result<u16> {
    let url = format!("{}/_sandbox/health", running.http_url());
    Ok(client.get(url).send().await?.status().as_u16())
}

#[tokio::test]
async fn an_outage_refuses_and_cuts_on_its_port_alone_and_ends_by_itself() {
    let running = start().await;
    let client = http();
    assert_eq!(health(&client, &running).await.unwrap(), 200);
    let asked = client
        .post(format!("{}/_sandbox/outage", running.http_url()))
        .json(&json!({"port": "http", "ms": 1000}))
        .send()
        .await;
    assert_eq!(asked.unwrap().status(), 200, "the answer still leaves");

    soon(async {
        while !refused(&running).await {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
    // The connection the client kept is gone too, so it has to make a new one.
    assert!(health(&client, &running).await.unwrap_err().is_connect());
    TcpStream::connect(running.smtp_addr).await.unwrap();
    soon(async {
        while health(&client, &running).await.is_err() {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;

    running.handle().outage(Port::Smtp, Duration::from_millis(50));
    assert_eq!(health(&client, &running).await.unwrap(), 200);
}
