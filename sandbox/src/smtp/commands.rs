//! Reads one command line into a command; pure.
//! It exists so that the session only sees what a client meant, and syntax is judged in one place.
//! It must never guess: what RFC 5321 does not allow is an error with its reply.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::smtp::envelope::{Sender, is_address};
use crate::smtp::replies::{
    BAD_ADDRESS, BAD_BASE64, BAD_PARAMETER, BAD_SYNTAX, MAX_MAIL_BYTES, Reply, TOO_BIG, TOO_LONG, UNKNOWN,
};

/// RFC 5321's limit for a command line with its CRLF.
const MAX_COMMAND_BYTES: usize = 512;
/// What 8BITMIME, SIZE and SMTPUTF8 add to MAIL and RCPT.
const MAX_ENVELOPE_BYTES: usize = 1024;
/// RFC 4954's limit for AUTH lines with their CRLF; also the longest line the server reads at all.
pub(crate) const MAX_LINE_BYTES: usize = 12_288;

/// What a client asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Hello { extended: bool },
    AuthPlain { initial: Option<String> },
    AuthLogin { initial: Option<String> },
    Mail(Sender),
    Recipient(String),
    Data,
    Reset,
    Noop,
    Verify,
    Help,
    Quit,
}

/// Parses a line without its CRLF. `utf8` allows non-ASCII recipients (the transaction asked for SMTPUTF8).
pub(crate) fn parse(line: &str, utf8: bool) -> Result<Command, Reply> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let verb = verb.to_ascii_uppercase();
    let limit = match verb.as_str() {
        "AUTH" => MAX_LINE_BYTES,
        "MAIL" | "RCPT" => MAX_ENVELOPE_BYTES,
        _ => MAX_COMMAND_BYTES,
    };
    if line.len() + 2 > limit {
        return Err(TOO_LONG);
    }
    match verb.as_str() {
        "EHLO" | "HELO" => {
            let name = rest.trim();
            let named = !name.is_empty() && !name.contains(' ');
            named
                .then_some(Command::Hello {
                    extended: verb == "EHLO",
                })
                .ok_or(BAD_SYNTAX)
        }
        "AUTH" => parse_auth(rest),
        "MAIL" => parse_mail(rest),
        "RCPT" => parse_recipient(rest, utf8),
        "NOOP" => Ok(Command::Noop),
        "VRFY" => Ok(Command::Verify),
        "HELP" => Ok(Command::Help),
        "DATA" | "RSET" | "QUIT" if !rest.is_empty() => Err(BAD_SYNTAX),
        "DATA" => Ok(Command::Data),
        "RSET" => Ok(Command::Reset),
        "QUIT" => Ok(Command::Quit),
        _ => Err(UNKNOWN),
    }
}

fn parse_auth(rest: &str) -> Result<Command, Reply> {
    let (mechanism, initial) = rest
        .split_once(' ')
        .map_or((rest, None), |(mechanism, initial)| (mechanism, Some(initial)));
    if initial.is_some_and(|initial| initial.is_empty() || initial.contains(' ')) {
        return Err(BAD_SYNTAX);
    }
    let initial = initial.map(str::to_owned);
    match mechanism.to_ascii_uppercase().as_str() {
        "PLAIN" => Ok(Command::AuthPlain { initial }),
        "LOGIN" => Ok(Command::AuthLogin { initial }),
        _ => Err(Reply::new(504, "5.5.4 Unrecognised authentication type")),
    }
}

/// The text after `keyword` (any case) and its colon, and the parameters behind the path.
fn path<'l>(rest: &'l str, keyword: &str) -> Result<(&'l str, Vec<&'l str>), Reply> {
    let (head, tail) = rest.split_at_checked(keyword.len()).ok_or(BAD_SYNTAX)?;
    if !head.eq_ignore_ascii_case(keyword) {
        return Err(BAD_SYNTAX);
    }
    let (address, parameters) = tail
        .strip_prefix('<')
        .and_then(|tail| tail.split_once('>'))
        .ok_or(BAD_ADDRESS)?;
    if !parameters.is_empty() && !parameters.starts_with(' ') {
        return Err(BAD_SYNTAX);
    }
    Ok((address, parameters.split(' ').filter(|part| !part.is_empty()).collect()))
}

fn parse_mail(rest: &str) -> Result<Command, Reply> {
    let (address, parameters) = path(rest, "FROM:")?;
    let mut sender = Sender {
        return_path: address.into(),
        eight_bit: false,
        utf8: false,
    };
    for parameter in parameters {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (name.to_ascii_uppercase().as_str(), value.to_ascii_uppercase().as_str()) {
            ("SIZE", size) => {
                let size: usize = size.parse().map_err(|_| BAD_SYNTAX)?;
                if size > MAX_MAIL_BYTES {
                    return Err(TOO_BIG);
                }
            }
            ("BODY", "8BITMIME") => sender.eight_bit = true,
            ("BODY", "7BIT") => sender.eight_bit = false,
            ("SMTPUTF8", "") => sender.utf8 = true,
            ("AUTH", value) if !value.is_empty() => {}
            _ => return Err(BAD_PARAMETER),
        }
    }
    check_charset(address, sender.utf8)?;
    // `<>` is the null sender of bounces.
    if address.is_empty() || is_address(address) {
        Ok(Command::Mail(sender))
    } else {
        Err(BAD_ADDRESS)
    }
}

fn parse_recipient(rest: &str, utf8: bool) -> Result<Command, Reply> {
    let (address, parameters) = path(rest, "TO:")?;
    if !parameters.is_empty() {
        return Err(BAD_PARAMETER);
    }
    check_charset(address, utf8)?;
    if is_address(address) {
        Ok(Command::Recipient(address.to_owned()))
    } else {
        Err(BAD_ADDRESS)
    }
}

fn check_charset(address: &str, utf8: bool) -> Result<(), Reply> {
    let allowed = utf8 || address.is_ascii();
    allowed
        .then_some(())
        .ok_or(Reply::new(553, "5.6.7 Non-ASCII addresses need SMTPUTF8"))
}

/// User and password of an AUTH PLAIN response.
pub(crate) fn decode_plain(response: &str) -> Result<(String, String), Reply> {
    let bytes = STANDARD.decode(response).map_err(|_| BAD_BASE64)?;
    let text = String::from_utf8(bytes).map_err(|_| BAD_BASE64)?;
    match text.split('\0').collect::<Vec<_>>().as_slice() {
        [_, user, password] => Ok(((*user).to_owned(), (*password).to_owned())),
        _ => Err(BAD_BASE64),
    }
}

/// One text of an AUTH LOGIN exchange.
pub(crate) fn decode_login(response: &str) -> Result<String, Reply> {
    let bytes = STANDARD.decode(response).map_err(|_| BAD_BASE64)?;
    String::from_utf8(bytes).map_err(|_| BAD_BASE64)
}
