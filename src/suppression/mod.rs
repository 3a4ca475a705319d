//! Whom a shop's own lists exclude: taken in from CSV, and given out again with everybody else who is excluded.
//!
//! Why it exists: consent comes along when a shop moves here, and goes along when it leaves. What closes an address by itself is
//! elsewhere: the provider's word and a STOP in `inbox` and `delivery::receipt`, an unsubscribe link in `web::unsubscribe`. A list
//! is kept (`suppression`), so that an address that comes later is closed when it comes.
//!
//! It must never open an address, never take half of a chunk, and never let one bad line keep the others out.

mod csv;

use std::io::{self, BufRead, Write};

use carillon_jobs::ShopId;
use serde::Serialize;
use sqlx::FromRow;
use thiserror::Error;

use crate::{
    channel::Channel,
    db::{self, PgPool},
};

/// Lines a transaction.
const CHUNK: usize = 5_000;
/// Rows a page of an export.
const PAGE: i64 = 5_000;
/// Bad lines that are told one by one; of the others only the number.
const TOLD: usize = 100;
/// The longest address and reason, in characters.
const ADDRESS_LIMIT: usize = 512;
const REASON_LIMIT: usize = 100;
/// How an export names an address of which only the hash is kept.
const HASHED: &str = "sha256:";

/// The first line: the names of the columns.
pub const CSV_HEADER: &str = "channel,address,state,reason,since";

/// What an import came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Lines that were taken.
    pub lines: u64,
    /// Of those, how many said something new.
    pub changed: u64,
    /// Lines that were not taken.
    pub bad: u64,
    /// The first of them: the line's number and what is wrong with it.
    pub bad_lines: Vec<(u64, String)>,
}

/// Why an import or an export ended early. Whole chunks that were taken stay taken: the same file again goes on from there.
#[derive(Debug, Error)]
pub enum SuppressionError {
    /// The first line does not name the columns.
    #[error("the first line must name the columns `channel` and `address`, and may name `state` and `reason`: {0}")]
    Header(String),
    /// There is no such shop.
    #[error("there is no shop {0}")]
    NoShop(ShopId),
    /// The file could not be read, or the output not be written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// Postgres did not answer.
    #[error("{}", db::describe(.0))]
    Database(#[from] sqlx::Error),
}

/// A line that can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    channel: Channel,
    address: String,
    state: &'static str,
    reason: String,
}

/// Which column is where.
struct Columns {
    channel: usize,
    address: usize,
    state: Option<usize>,
    reason: Option<usize>,
}

/// Takes a list in, chunk by chunk. Running it twice changes nothing more.
///
/// # Errors
/// The header, the file or the database; bad lines are no errors.
pub async fn import(pool: &PgPool, shop: ShopId, file: impl BufRead) -> Result<Imported, SuppressionError> {
    known(pool, shop).await?;
    let mut reader = csv::Reader::new(file);
    let columns = Columns::read(&mut reader)?;
    let mut told = Imported::default();
    let mut chunk: Vec<Line> = Vec::with_capacity(CHUNK);
    while let Some((number, record)) = reader.next()? {
        let line = record.map_err(str::to_owned).and_then(|cells| columns.line(&cells));
        match line {
            Ok(line) => chunk.push(line),
            Err(problem) => {
                told.bad += 1;
                if told.bad_lines.len() < TOLD {
                    told.bad_lines.push((number, problem));
                }
            }
        }
        if chunk.len() == CHUNK {
            take(pool, shop, &mut chunk, &mut told).await?;
        }
    }
    take(pool, shop, &mut chunk, &mut told).await?;
    Ok(told)
}

async fn known(pool: &PgPool, shop: ShopId) -> Result<(), SuppressionError> {
    let known: bool = sqlx::query_scalar("select exists (select from shop where id = $1)")
        .bind(shop.0)
        .fetch_one(pool)
        .await?;
    if known {
        Ok(())
    } else {
        Err(SuppressionError::NoShop(shop))
    }
}

/// One transaction: the whole chunk or nothing of it.
async fn take(pool: &PgPool, shop: ShopId, chunk: &mut Vec<Line>, told: &mut Imported) -> Result<(), sqlx::Error> {
    if chunk.is_empty() {
        return Ok(());
    }
    let changed: i64 = sqlx::query_scalar("select suppress_listed($1, $2, $3, $4, $5)")
        .bind(shop.0)
        .bind(chunk.iter().map(|line| line.channel).collect::<Vec<_>>())
        .bind(chunk.iter().map(|line| line.address.as_str()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|line| line.state).collect::<Vec<_>>())
        .bind(chunk.iter().map(|line| line.reason.as_str()).collect::<Vec<_>>())
        .fetch_one(pool)
        .await?;
    told.lines += chunk.len() as u64;
    told.changed += u64::try_from(changed).unwrap_or(0);
    chunk.clear();
    Ok(())
}

impl Columns {
    fn read(reader: &mut csv::Reader<impl BufRead>) -> Result<Self, SuppressionError> {
        let wrong = |what: &str| SuppressionError::Header(what.to_owned());
        let cells = match reader.next()? {
            None => return Err(wrong("the file is empty")),
            Some((_, Err(problem))) => return Err(wrong(&format!("it {problem}"))),
            Some((_, Ok(cells))) => cells,
        };
        let names: Vec<String> = cells.iter().map(|cell| cell.trim().to_lowercase()).collect();
        let place = |name: &str| names.iter().position(|one| one == name);
        Ok(Self {
            channel: place("channel").ok_or_else(|| wrong("`channel` is missing"))?,
            address: place("address").ok_or_else(|| wrong("`address` is missing"))?,
            state: place("state"),
            reason: place("reason"),
        })
    }

    /// A record as a line of the list, or what is wrong with it. The problem never quotes an address.
    fn line(&self, cells: &[String]) -> Result<Line, String> {
        let cell = |place: usize| cells.get(place).map_or("", |cell| csv::plain(cell.trim()).trim());
        let channel: Channel = cell(self.channel)
            .to_lowercase()
            .parse()
            .map_err(|error: crate::channel::UnknownChannel| error.to_string())?;
        let address = cell(self.address);
        if let Some(problem) = address_problem(channel, address) {
            return Err(format!("address {problem}"));
        }
        let state = match self.state.map_or("", cell) {
            "" | "opted_out" => "opted_out",
            "suppressed" => "suppressed",
            _ => return Err("state must be opted_out or suppressed; empty means opted_out".to_owned()),
        };
        let reason: String = self
            .reason
            .map_or("", cell)
            .chars()
            .filter(|c| !c.is_control())
            .take(REASON_LIMIT)
            .collect();
        let reason = if reason.is_empty() { "list".to_owned() } else { reason };
        Ok(Line {
            channel,
            address: address.to_owned(),
            state,
            reason,
        })
    }
}

/// What is wrong with an address (pure); a hash of our own export is none.
fn address_problem(channel: Channel, address: &str) -> Option<&'static str> {
    if let Some(hash) = address.strip_prefix(HASHED) {
        let fits = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        return (!fits).then_some("begins with sha256: and is no hash");
    }
    if address.is_empty() {
        return Some("is empty");
    }
    if address.chars().count() > ADDRESS_LIMIT || address.chars().any(char::is_control) {
        return Some("is too long, or holds control characters");
    }
    match channel {
        Channel::Email => {
            let parts = address.rsplit_once('@');
            let fits = parts.is_some_and(|(user, domain)| !user.is_empty() && domain.len() > 2)
                && !address.contains(char::is_whitespace);
            (!fits).then_some("is no mail address")
        }
        Channel::Sms | Channel::Whatsapp => {
            let digits = address.bytes().filter(u8::is_ascii_digit).count();
            let plain = address.chars().all(|c| c.is_ascii_digit() || "+-. ()".contains(c));
            (!plain || !(6..=20).contains(&digits)).then_some("is no phone number")
        }
        Channel::App | Channel::Line | Channel::Messenger => {
            address.contains(char::is_whitespace).then_some("holds blanks")
        }
    }
}

#[derive(FromRow)]
struct Excluded {
    channel: Channel,
    address: String,
    state: String,
    reason: String,
    since: String,
    hash: Vec<u8>,
    id: i64,
}

/// Writes everybody a shop may not write to: first its lists, then whom providers and persons excluded; returns how many. Safe to open
/// in a spreadsheet. Read in pages by key, so that memory stays flat however long it is.
///
/// # Errors
/// The shop, the output or the database.
pub async fn export(pool: &PgPool, shop: ShopId, out: &mut impl Write) -> Result<u64, SuppressionError> {
    known(pool, shop).await?;
    writeln!(out, "{CSV_HEADER}")?;
    let mut written = 0;
    let (mut after_channel, mut after_hash) = (None::<Channel>, Vec::new());
    loop {
        let page: Vec<Excluded> = sqlx::query_as(
            "select s.channel, coalesce(s.address, 'sha256:' || encode(s.address_hash, 'hex')) as address, s.state, s.reason,
                    to_char(s.listed_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as since,
                    s.address_hash as hash, 0::bigint as id
               from suppression s
              where s.shop_id = $1 and ($2::channel is null or (s.channel, s.address_hash) > ($2, $3))
              order by s.channel, s.address_hash limit $4",
        )
        .bind(shop.0)
        .bind(after_channel)
        .bind(&after_hash)
        .bind(PAGE)
        .fetch_all(pool)
        .await?;
        written += write_page(out, &page)?;
        match page.into_iter().next_back() {
            Some(last) => (after_channel, after_hash) = (Some(last.channel), last.hash),
            None => break,
        }
    }
    let mut after = 0;
    loop {
        let page: Vec<Excluded> = sqlx::query_as(
            "select se.channel, a.address, case when a.state = 'active' then 'opted_out' else a.state end as state,
                    case when a.state = 'active' then 'everything' else coalesce(a.state_reason, a.state) end as reason,
                    coalesce(to_char(a.state_changed_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), '') as since,
                    ''::bytea as hash, a.id
               from address a
               join sender se on se.id = a.sender_id
               join customer c on c.id = a.customer_id
              where a.shop_id = $1 and a.id > $2 and (a.state <> 'active' or c.opted_out)
                and not exists (select from suppression s where s.shop_id = a.shop_id and s.channel = se.channel
                                   and s.address_hash = suppression_hash(a.shop_id, se.channel, a.address))
              order by a.id limit $3",
        )
        .bind(shop.0)
        .bind(after)
        .bind(PAGE)
        .fetch_all(pool)
        .await?;
        written += write_page(out, &page)?;
        match page.last() {
            Some(last) => after = last.id,
            None => return Ok(written),
        }
    }
}

fn write_page(out: &mut impl Write, page: &[Excluded]) -> io::Result<u64> {
    for row in page {
        let cells = [row.channel.as_str(), &row.address, &row.state, &row.reason, &row.since].map(csv::field);
        writeln!(out, "{}", cells.join(","))?;
    }
    out.flush()?;
    Ok(page.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::{Columns, Line, address_problem};
    use crate::channel::Channel;

    const COLUMNS: Columns = Columns {
        channel: 0,
        address: 1,
        state: Some(2),
        reason: Some(3),
    };

    fn line(cells: &[&str]) -> Result<Line, String> {
        COLUMNS.line(&cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_line_says_whom_and_why() {
        let wanted = Line {
            channel: Channel::Sms,
            address: "+886912345678".to_owned(),
            state: "suppressed",
            reason: "dead number".to_owned(),
        };
        assert_eq!(
            line(&["SMS", "'+886912345678", "suppressed", " dead number "]),
            Ok(wanted)
        );
        assert_eq!(
            line(&["email", "a@b.example"]).map(|line| (line.state, line.reason)),
            Ok(("opted_out", "list".to_owned()))
        );
        for cells in [
            &["fax", "1"][..],
            &["email"],
            &["email", "nobody"],
            &["sms", "call me"],
            &["line", "U 1"],
            &["email", "a@b.example", "maybe"],
        ] {
            assert!(line(cells).is_err(), "{cells:?}");
        }
    }

    #[test]
    fn an_address_must_be_one_of_its_channel() {
        let hash = format!("sha256:{}", "0f".repeat(32));
        for (channel, address, fits) in [
            (Channel::Email, "a@b.example", true),
            (Channel::Email, "a b@c.example", false),
            (Channel::Sms, "0912-345-678", true),
            (Channel::Whatsapp, "+886 912 345 678", true),
            (Channel::Sms, "12345", false),
            (Channel::Line, "U0123", true),
            (Channel::App, "", false),
            (Channel::App, hash.as_str(), true),
            (Channel::Email, "sha256:0f", false),
        ] {
            assert_eq!(address_problem(channel, address).is_none(), fits, "{channel} {address}");
        }
    }
}
