//! `carillon-sandbox`: the provider simulator as a process, for the demo and the benchmark.
//! It prints one JSON line with its addresses when it is ready, and ends on SIGTERM or Ctrl-C.
//! It must never listen on anything but loopback, and never log requests.

use std::io::{self, Write as _};
use std::process::ExitCode;

use carillon_sandbox::{
    Account, BadFault, Channel, Fault, FcmAccount, Latency, LineAccount, RateCap, Running, Sandbox, SandboxConfig,
    SmtpAccount, StartError, default_accounts, fcm_account_from_key_json,
};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Provider simulator on loopback: LINE, FCM, Messenger, WhatsApp and SMTP, with faults on demand.
#[derive(Parser)]
#[command(name = "carillon-sandbox", version)]
struct Options {
    /// HTTP port (LINE, FCM, OAuth, Graph, /_sandbox); 0 picks a free one
    #[arg(long, default_value_t = 9900)]
    http_port: u16,
    /// SMTP port; 0 picks a free one
    #[arg(long, default_value_t = 9925)]
    smtp_port: u16,
    /// Threads that serve; one answers tens of thousands of requests per second
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep raw message bodies (more memory)
    #[arg(long)]
    keep_bodies: bool,
    /// Another LINE channel access token, as TOKEN or TOKEN=MONTHLY_QUOTA (repeatable)
    #[arg(long, value_name = "TOKEN[=QUOTA]")]
    line_token: Vec<String>,
    /// Another Google service account file whose key is accepted (repeatable)
    #[arg(long, value_name = "FILE")]
    fcm_key: Vec<std::path::PathBuf>,
    /// Seconds an FCM access token lives
    #[arg(long, default_value_t = 3599)]
    fcm_token_lifetime_secs: u64,
    /// Another SMTP login, as USER:PASSWORD (repeatable)
    #[arg(long, value_name = "USER:PASSWORD")]
    smtp_login: Vec<String>,
    /// Take mail without a login (no SMTP login is registered, not even the default one)
    #[arg(long)]
    smtp_open: bool,
    /// Latency of a channel, as CHANNEL=FIXED_MS or CHANNEL=FIXED_MS+JITTER_MS (repeatable)
    #[arg(long, value_name = "CHANNEL=MS[+MS]", value_parser = parse_latency)]
    latency: Vec<(Channel, Latency)>,
    /// Sends per second per account, 429 above it, as CHANNEL=N (repeatable)
    #[arg(long, value_name = "CHANNEL=N", value_parser = parse_rate_cap)]
    rate_cap: Vec<(Channel, RateCap)>,
    /// A fault rule in JSON, as for POST /_sandbox/faults (repeatable)
    #[arg(long, value_name = "JSON", value_parser = parse_fault)]
    fault: Vec<Fault>,
}

fn channel_and(text: &str) -> Result<(Channel, &str), String> {
    let (channel, value) = text.split_once('=').ok_or("expected CHANNEL=VALUE")?;
    Ok((
        channel
            .parse()
            .map_err(|e: carillon_sandbox::UnknownChannel| e.to_string())?,
        value,
    ))
}

fn parse_latency(text: &str) -> Result<(Channel, Latency), String> {
    let (channel, value) = channel_and(text)?;
    let (fixed, jitter) = value.split_once('+').unwrap_or((value, "0"));
    let ms = |text: &str| {
        text.parse()
            .map_err(|_| format!("`{text}` is not a number of milliseconds"))
    };
    Ok((
        channel,
        Latency {
            fixed_ms: ms(fixed)?,
            jitter_ms: ms(jitter)?,
        },
    ))
}

fn parse_rate_cap(text: &str) -> Result<(Channel, RateCap), String> {
    let (channel, value) = channel_and(text)?;
    let per_second = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
    Ok((
        channel,
        RateCap {
            per_second,
            burst: None,
        },
    ))
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// Why the process ends early.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}: {source}", source = cause(.0))]
    Start(#[from] StartError),
    #[error("fault rule: {0}")]
    Fault(#[from] BadFault),
    #[error("{path} is no Google service account file", path = .0.display())]
    KeyFile(std::path::PathBuf),
    #[error("an SMTP login is USER:PASSWORD")]
    SmtpLogin,
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn cause(error: &StartError) -> String {
    std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            // The exit code already tells; a closed stderr must not turn it into a panic.
            let _ = writeln!(io::stderr().lock(), "carillon-sandbox: {failed}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failed> {
    let runtime = if options.threads <= 1 {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads)
            .enable_all()
            .build()?
    };
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let running = Sandbox::start(SandboxConfig {
            http_port: options.http_port,
            smtp_port: options.smtp_port,
            seed: options.seed,
            keep_bodies: options.keep_bodies,
            keep_marks: false,
            accounts: accounts(options)?,
        })
        .await?;
        adjust(options, &running)?;
        announce(&running)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(())
    })
}

/// The well-known accounts and those of the command line.
fn accounts(options: &Options) -> Result<Vec<Account>, Failed> {
    let mut accounts = default_accounts();
    if options.smtp_open {
        accounts.retain(|account| account.channel() != Channel::Smtp);
    }
    for (text, n) in options.line_token.iter().zip(2_000_000_002_u64..) {
        let (token, quota) = match text.rsplit_once('=') {
            Some((token, quota)) if quota.parse::<u64>().is_ok() => (token, quota.parse().ok()),
            _ => (text.as_str(), None),
        };
        accounts.push(Account::Line(LineAccount {
            access_token: token.to_owned(),
            channel_id: n.to_string(),
            bot_user_id: format!("U{n:032x}"),
            display_name: format!("Sandbox Shop {n}"),
            monthly_quota: quota,
            channel_secret: None,
        }));
    }
    for path in &options.fcm_key {
        let account: Option<FcmAccount> = fcm_account_from_key_json(&std::fs::read_to_string(path)?);
        accounts.push(Account::Fcm(account.ok_or_else(|| Failed::KeyFile(path.clone()))?));
    }
    for login in &options.smtp_login {
        let (user, password) = login.split_once(':').ok_or(Failed::SmtpLogin)?;
        accounts.push(Account::Smtp(SmtpAccount {
            user: user.to_owned(),
            password: password.to_owned(),
        }));
    }
    Ok(accounts)
}

/// Applies latencies, caps and faults of the command line.
fn adjust(options: &Options, running: &Running) -> Result<(), Failed> {
    let handle = running.handle();
    handle.set_fcm_token_lifetime_secs(options.fcm_token_lifetime_secs);
    for (channel, latency) in &options.latency {
        handle.set_latency(*channel, *latency);
    }
    for (channel, cap) in &options.rate_cap {
        handle.set_rate_cap(*channel, Some(*cap));
    }
    for fault in &options.fault {
        handle.set_fault(fault.clone())?;
    }
    Ok(())
}

fn announce(running: &Running) -> io::Result<()> {
    let ready = serde_json::json!({
        "http": running.http_addr.to_string(),
        "smtp": running.smtp_addr.to_string(),
        "pid": std::process::id(),
    });
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{ready}")?;
    stdout.flush()
}
