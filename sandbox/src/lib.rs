//! Every provider's wire format on loopback, with faults on demand.
//!
//! It exists so that the demo, the tests and the benchmark speak LINE's, Google's and a mail relay's real protocols
//! without the internet, meet their refusals and bad days, and learn afterwards what every recipient really got.
//! It must never be part of the product binary, never be kinder than the provider it stands for, and never be the
//! slowest part of a benchmark.
//!
//! ```text
//! http ─ routes ─┬─ line, fcm, oauth, graph, twilio, mitake ─┐
//! smtp ──────────┘                    ├─ faults, traffic (counters, received, rate cap), clock
//! control, handle ────────────────────┘
//! ```

mod accounts;
mod channel;
mod check;
mod clock;
mod control;
mod cpu;
mod faults;
mod fcm;
mod graph;
mod handle;
mod http;
mod json;
mod line;
mod mitake;
mod mix;
mod oauth;
mod outage;
mod received;
mod routes;
mod sms_form;
mod smtp;
mod state;
mod traffic;
mod twilio;
pub mod webhooks;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::state::State;

pub use crate::accounts::{
    Account, BadAccount, FCM_ACCESS_TOKEN, FCM_DEMO_KEY_JSON, FCM_PROJECT, FcmAccount, LINE_BOT_USER_ID,
    LINE_CHANNEL_ID, LINE_CHANNEL_SECRET, LINE_TOKEN, LineAccount, META_APP_ID, META_APP_SECRET, MITAKE_PASSWORD,
    MITAKE_USER, MitakeAccount, PAGE_ID, PAGE_TOKEN, PHONE_NUMBER_ID, PageAccount, SMTP_PASSWORD, SMTP_USER,
    SmtpAccount, TWILIO_AUTH_TOKEN, TWILIO_FROM, TWILIO_SID, TwilioAccount, WHATSAPP_TEMPLATE, WHATSAPP_TOKEN,
    WhatsappAccount, default_accounts, fcm_account_from_key_json,
};
pub use crate::channel::{Channel, UnknownChannel};
pub use crate::cpu::{CpuError, Used, used};
pub use crate::faults::{BadFault, Fault, FaultKind, FaultStatus};
pub use crate::handle::Handle;
pub use crate::outage::Port;
pub use crate::received::{ReceivedMessage, ReceivedQuery};
pub use crate::traffic::{ChannelSummary, Latency, RateCap};

/// How a sandbox starts.
#[derive(Clone)]
pub struct SandboxConfig {
    /// HTTP port on 127.0.0.1; 0 picks a free one.
    pub http_port: u16,
    /// SMTP port on 127.0.0.1; 0 picks a free one.
    pub smtp_port: u16,
    /// Seed of every draw (probabilities, jitter, ids).
    pub seed: u64,
    /// Keep the raw message beside its text. Costs memory when messages are personalised.
    pub keep_bodies: bool,
    /// Keep what tells which delivery a message is. Mails begin with their `Return-Path`, as the last server on a mail's way writes it;
    /// with `keep_bodies` off nothing else stands there, and for Messenger, WhatsApp and text messages their mark alone.
    pub keep_marks: bool,
    /// Accounts known from the start.
    pub accounts: Vec<Account>,
}

impl Default for SandboxConfig {
    /// Free ports, seed 1, bodies kept, the well-known accounts: what a test wants.
    fn default() -> Self {
        Self {
            http_port: 0,
            smtp_port: 0,
            seed: 1,
            keep_bodies: true,
            keep_marks: false,
            accounts: default_accounts(),
        }
    }
}

/// Why a sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or not allowed.
    #[error("cannot listen on 127.0.0.1:{port}")]
    Listen {
        /// The port asked for.
        port: u16,
        /// The system's reason.
        source: io::Error,
    },
    /// An account was refused.
    #[error("an account cannot be used")]
    Account(#[from] BadAccount),
}

/// The provider simulator.
pub struct Sandbox;

impl Sandbox {
    /// Listens on loopback and serves on the current tokio runtime until the result is dropped.
    pub async fn start(config: SandboxConfig) -> Result<Running, StartError> {
        let state = Arc::new(State::new(&config));
        for account in config.accounts {
            state.register(account)?;
        }
        let (http, http_addr) = listen(config.http_port).await?;
        let (smtp, smtp_addr) = listen(config.smtp_port).await?;
        let tasks = [
            tokio::spawn(keep_open(http, Arc::clone(&state), Port::Http, http::serve)),
            tokio::spawn(keep_open(smtp, Arc::clone(&state), Port::Smtp, smtp::serve)),
        ];
        Ok(Running {
            http_addr,
            smtp_addr,
            handle: Handle { state },
            tasks,
        })
    }
}

async fn listen(port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { port, source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// How long to leave the listener alone after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves, but for the time of outages: then connections are cut and new ones refused.
async fn keep_open<S>(mut listener: TcpListener, state: Arc<State>, port: Port, serve: fn(TcpStream, Arc<State>) -> S)
where
    S: Future<Output = ()> + Send + 'static,
{
    let mut outages = state.outages.of(port);
    while let Ok(address) = listener.local_addr() {
        let until = tokio::select! {
            until = outage::next(&mut outages) => until,
            () = accept(&listener, Arc::clone(&state), serve) => continue,
        };
        drop(listener);
        listener = outage::closed_until(address, until).await;
    }
}

/// Serves every connection in a task that ends with this one.
async fn accept<S>(listener: &TcpListener, state: Arc<State>, serve: fn(TcpStream, Arc<State>) -> S)
where
    S: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Answers are written whole; waiting to join them with more would only add latency.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream, Arc::clone(&state)));
                }
                // Out of file descriptors, most likely: let some connections end before trying again.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// A running sandbox; dropping it closes every connection and both ports.
pub struct Running {
    /// Where HTTP listens.
    pub http_addr: SocketAddr,
    /// Where SMTP listens.
    pub smtp_addr: SocketAddr,
    handle: Handle,
    tasks: [JoinHandle<()>; 2],
}

impl Running {
    /// Drives the sandbox.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// `http://127.0.0.1:port`, the base address of LINE, FCM and the control API.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http_addr)
    }

    /// The demo service account file with this sandbox's own token address in it.
    pub fn fcm_key_json(&self) -> String {
        FCM_DEMO_KEY_JSON.replace("127.0.0.1:9900", &self.http_addr.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
