//! Where providers tell what happens: the web processes' addresses, and requests to them.
//! It must never decide to tell again: what a refusal means to a provider is the load's business.

use std::time::Duration;

use carillon_sandbox::webhooks::Request;

/// How long a provider waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The web processes, from outside.
#[derive(Debug)]
pub struct Door {
    ports: Vec<u16>,
    client: reqwest::Client,
}

impl Door {
    /// Of so many processes, which are still to be started on its ports.
    pub fn new(webs: usize) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self {
            ports: free_ports(webs),
            client,
        }
    }

    /// Where each process listens.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Makes the request to one of the processes. The status of the answer, or nothing when there was none: then it may be stored
    /// or not.
    pub async fn tell(&self, web: usize, path: &str, request: &Request) -> Option<u16> {
        let port = self.ports[web % self.ports.len()];
        let query = if request.query.is_empty() { "" } else { "?" };
        let address = format!("http://127.0.0.1:{port}{path}{query}{}", request.query);
        let method = request.method.parse().unwrap();
        let mut told = self.client.request(method, address).body(request.body.clone());
        for (name, value) in &request.headers {
            told = told.header(*name, value);
        }
        told.send().await.ok().map(|answer| answer.status().as_u16())
    }
}

/// Ports below those the system gives out by itself: a process that is down for a moment must find its own free again.
fn free_ports(webs: usize) -> Vec<u16> {
    let first = 20_000 + u16::try_from(std::process::id() * 7 % 10_000).unwrap();
    let free = |port: &u16| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let ports: Vec<u16> = (first..first + 2_000).filter(free).take(webs).collect();
    assert_eq!(ports.len(), webs, "no free port from {first} on");
    ports
}
