//! Outages: for a while nobody listens on a port, and whoever was connected is cut off.
//! It exists because "connection refused" is a fault no answer can play: it says for certain that nothing was sent.
//! It must never give the port away meanwhile: it stays bound, only nobody listens.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::Instant;

/// What an outage takes away. LINE and FCM share the HTTP port, and the control API is on it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    /// LINE, FCM, OAuth and the control API.
    Http,
    /// Mail.
    Smtp,
}

/// Before an outage begins: time for the answer to whoever asked for it over the port it closes.
const NOTICE: Duration = Duration::from_millis(50);
/// Between attempts to take the port again, should the system not have let go of it yet.
const AGAIN: Duration = Duration::from_millis(5);
const BACKLOG: u32 = 1024;

/// When and until when.
type Outage = Option<(Instant, Instant)>;

/// The outages asked for, port by port; the last one counts.
pub(crate) struct Outages {
    http: watch::Sender<Outage>,
    smtp: watch::Sender<Outage>,
}

impl Outages {
    pub(crate) fn new() -> Self {
        Self {
            http: watch::Sender::new(None),
            smtp: watch::Sender::new(None),
        }
    }

    fn sender(&self, port: Port) -> &watch::Sender<Outage> {
        match port {
            Port::Http => &self.http,
            Port::Smtp => &self.smtp,
        }
    }

    pub(crate) fn begin(&self, port: Port, time: Duration) {
        let from = Instant::now() + NOTICE;
        self.sender(port).send_replace(Some((from, from + time)));
    }

    pub(crate) fn of(&self, port: Port) -> watch::Receiver<Outage> {
        self.sender(port).subscribe()
    }
}

/// Waits for the next outage to begin; returns when it ends.
pub(crate) async fn next(outages: &mut watch::Receiver<Outage>) -> Instant {
    loop {
        if outages.changed().await.is_err() {
            // Nobody can ask for one any more.
            std::future::pending::<()>().await;
        }
        let asked = *outages.borrow_and_update();
        if let Some((from, until)) = asked {
            tokio::time::sleep_until(from).await;
            return until;
        }
    }
}

/// Holds the port without listening until then, and listens again.
pub(crate) async fn closed_until(address: SocketAddr, until: Instant) -> TcpListener {
    loop {
        if let Ok(socket) = bound(address) {
            tokio::time::sleep_until(until).await;
            if let Ok(listener) = socket.listen(BACKLOG) {
                return listener;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
