//! A gate in front of a service: what passes can be held back or broken off without touching the service, which others use.
//!
//! Frozen is what a hung server looks like from outside (connections stand, nothing answers); shut is what a server that is
//! down looks like (connections break, new ones are refused).

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Frozen,
    Shut,
}

/// A port that leads to a service on this machine.
pub(crate) struct Gate {
    address: SocketAddr,
    target: u16,
    state: watch::Sender<State>,
    accepting: Option<JoinHandle<()>>,
}

impl Gate {
    /// An open gate in front of the service at `url`, and the address that leads through it.
    pub(crate) async fn before(url: &str) -> (Self, String) {
        let mut through = url::Url::parse(url).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut gate = Self {
            address: listener.local_addr().unwrap(),
            target: through.port().unwrap(),
            state: watch::Sender::new(State::Open),
            accepting: None,
        };
        gate.accept(listener);
        through.set_host(Some("127.0.0.1")).unwrap();
        through.set_port(Some(gate.address.port())).unwrap();
        (gate, through.to_string())
    }

    /// Lets through what comes from now on, and what was held back.
    pub(crate) async fn open(&mut self) {
        self.state.send_replace(State::Open);
        if self.accepting.is_none() {
            let listener = TcpListener::bind(self.address).await.unwrap();
            self.accept(listener);
        }
    }

    /// Holds everything back.
    pub(crate) fn freeze(&self) {
        self.state.send_replace(State::Frozen);
    }

    /// Breaks every connection off and refuses new ones.
    pub(crate) async fn shut(&mut self) {
        self.state.send_replace(State::Shut);
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    fn accept(&mut self, listener: TcpListener) {
        let (state, target) = (self.state.clone(), self.target);
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, state.subscribe()));
            }
        }));
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.send_replace(State::Shut);
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

async fn pass(client: TcpStream, target: u16, state: watch::Receiver<State>) {
    let mut shut = state.clone();
    let passing = async {
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
            return;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = copy(from_client, to_server, state.clone()) => {}
            () = copy(from_server, to_client, state) => {}
        }
    };
    tokio::select! {
        () = passing => {}
        _ = shut.wait_for(|state| *state == State::Shut) => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(n @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let open = state.wait_for(|state| *state == State::Open).await.is_ok();
        if !open || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
