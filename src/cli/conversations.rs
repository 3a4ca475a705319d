//! `carillon conversations`: what the inbox holds, for whoever asks why a shop sees what it sees.
//!
//! What people wrote is shown only when it is asked for.

use carillon_jobs::{CustomerId, SenderId, ShopId};
use serde_json::{Value, json};

use super::{
    CliError, need_schema, plain, say,
    table::{self, Align},
};
use crate::{
    app::App,
    inbox::conversation::{self, ConversationFilter, ConversationRow, MessageRow},
};

const TEXT_CHARS: usize = 60;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Args {
    /// List conversations, the one written in last first
    List(Which),
    /// Show one: what it is, and its latest messages
    Show {
        /// The conversation's number, as `list` shows it
        id: i64,
        /// Show what was written, too
        #[arg(long)]
        texts: bool,
        /// How many messages
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub(super) struct Which {
    /// Only of this shop
    #[arg(long, value_name = "ID")]
    shop: Option<ShopId>,
    /// Only on this sender
    #[arg(long, value_name = "ID")]
    sender: Option<SenderId>,
    /// Only of this customer
    #[arg(long, value_name = "ID")]
    customer: Option<CustomerId>,
    /// Only unread ones
    #[arg(long)]
    unread: bool,
    /// Only starred ones
    #[arg(long)]
    starred: bool,
    /// The archive instead of the general list
    #[arg(long)]
    archived: bool,
    /// Only those with a phone number
    #[arg(long)]
    phone: bool,
    /// Only those that came from an advertisement
    #[arg(long)]
    ad: bool,
    /// Only those nobody has
    #[arg(long)]
    unassigned: bool,
    /// How many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// One JSON array of objects
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(app: App, args: Args) -> Result<(), CliError> {
    need_schema(&app).await?;
    match args {
        Args::List(which) => list(&app, which).await,
        Args::Show { id, texts, limit, json } => show(&app, id, texts, limit, json).await,
    }
}

async fn list(app: &App, which: Which) -> Result<(), CliError> {
    let filter = ConversationFilter {
        shop: which.shop,
        sender: which.sender,
        customer: which.customer,
        unread: which.unread,
        starred: which.starred,
        archived: which.archived,
        has_phone: which.phone,
        from_ad: which.ad,
        unassigned: which.unassigned,
    };
    let found = conversation::list(&app.db, &filter, which.limit).await?;
    if which.json {
        return say(&Value::Array(found.iter().map(object).collect()).to_string());
    }
    if found.is_empty() {
        return say("no conversations");
    }
    let rows = found.iter().map(|row| {
        vec![
            row.id.to_string(),
            row.channel.clone(),
            thread(row),
            row.customer_id.to_string(),
            row.unread.to_string(),
            marks(row),
            row.assigned_to
                .as_deref()
                .map_or_else(|| "-".to_owned(), |who| plain::cell(who, 30)),
            plain::moment_or_dash(row.last_message_at),
        ]
    });
    let heads = [
        ("conversation", Align::Right),
        ("channel", Align::Left),
        ("thread", Align::Left),
        ("customer", Align::Right),
        ("unread", Align::Right),
        ("marks", Align::Left),
        ("assigned", Align::Left),
        ("last message", Align::Left),
    ];
    table::print(&heads, rows.collect())
}

async fn show(app: &App, id: i64, texts: bool, limit: i64, as_json: bool) -> Result<(), CliError> {
    let Some(row) = conversation::get(&app.db, id).await? else {
        return Err(CliError::Wrong(format!(
            "there is no conversation {id}: `carillon conversations list` shows them"
        )));
    };
    let messages = conversation::messages(&app.db, id, limit).await?;
    let ads = conversation::ads(&app.db, id).await?;
    if as_json {
        let mut all = object(&row);
        if let Some(fields) = all.as_object_mut() {
            let messages = messages.iter().map(|message| message_object(message, texts));
            fields.insert("messages".to_owned(), Value::Array(messages.collect()));
            let ads = ads
                .iter()
                .map(|ad| json!({"ad_id": ad.ad_id, "title": ad.title, "url": ad.url, "referred_at": ad.referred_at}));
            fields.insert("ads".to_owned(), Value::Array(ads.collect()));
        }
        return say(&all.to_string());
    }
    say(&format!("conversation {id} on {} ({})", row.channel, thread(&row)))?;
    say(&format!("  shop      {}", row.shop_id))?;
    say(&format!("  sender    {}", row.sender_id))?;
    say(&format!("  customer  {}", row.customer_id))?;
    say(&format!("  unread    {}", row.unread))?;
    say(&format!("  marks     {}", marks(&row)))?;
    let who = row.assigned_to.as_deref().unwrap_or("nobody");
    say(&format!("  assigned  {}", plain::cell(who, TEXT_CHARS)))?;
    say(&format!(
        "  last      {}, by the customer {}",
        plain::moment_or_dash(row.last_message_at),
        plain::moment_or_dash(row.last_inbound_at)
    ))?;
    for ad in &ads {
        let title = plain::cell(ad.title.as_deref().unwrap_or("-"), TEXT_CHARS);
        say(&format!(
            "  ad        {} {title}, {}",
            plain::cell(&ad.ad_id, TEXT_CHARS),
            plain::moment(ad.referred_at)
        ))?;
    }
    if messages.is_empty() {
        return say("no messages");
    }
    say("")?;
    let mut heads = vec![
        ("message", Align::Right),
        ("written", Align::Left),
        ("from", Align::Left),
        ("attached", Align::Right),
        ("kept", Align::Right),
        ("marks", Align::Left),
    ];
    if texts {
        heads.push(("text", Align::Left));
    }
    table::print(
        &heads,
        messages.iter().map(|message| message_cells(message, texts)).collect(),
    )
}

fn thread(row: &ConversationRow) -> String {
    match row.order_number.as_str() {
        "" => row.kind.clone(),
        number => format!("order {}", plain::cell(number, 30)),
    }
}

fn marks(row: &ConversationRow) -> String {
    let marks = [
        (row.starred, "starred"),
        (row.archived, "archived"),
        (row.has_phone, "phone"),
        (row.from_ad, "ad"),
    ];
    said(&marks)
}

fn said(marks: &[(bool, &str)]) -> String {
    let marks: Vec<&str> = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
    if marks.is_empty() {
        "-".to_owned()
    } else {
        marks.join(", ")
    }
}

fn message_cells(message: &MessageRow, texts: bool) -> Vec<String> {
    let marks = [
        (message.edited_at.is_some(), "edited"),
        (message.unsent_at.is_some(), "taken back"),
        (!message.phones.is_empty(), "phone"),
    ];
    let mut cells = vec![
        message.id.to_string(),
        plain::moment(message.sent_at),
        if message.direction == "in" { "customer" } else { "shop" }.to_owned(),
        message.attachments.len().to_string(),
        message.media.first().map_or(0, |kept| *kept).to_string(),
        said(&marks),
    ];
    if texts {
        cells.push(plain::cell(message.text.as_deref().unwrap_or("-"), TEXT_CHARS));
    }
    cells
}

fn object(row: &ConversationRow) -> Value {
    json!({
        "id": row.id, "shop_id": row.shop_id, "sender_id": row.sender_id, "channel": row.channel, "customer_id": row.customer_id,
        "kind": row.kind, "order_number": row.order_number, "unread": row.unread, "starred": row.starred,
        "archived": row.archived, "has_phone": row.has_phone, "from_ad": row.from_ad, "assigned_to": row.assigned_to,
        "last_message_at": row.last_message_at, "last_inbound_at": row.last_inbound_at,
    })
}

fn message_object(message: &MessageRow, texts: bool) -> Value {
    let kinds: Vec<&Value> = message.attachments.iter().filter_map(|one| one.get("kind")).collect();
    let mut all = json!({
        "id": message.id, "direction": message.direction, "sent_at": message.sent_at, "attachments": kinds,
        "media_stored": message.media.first(), "media_pending": message.media.get(1), "media_failed": message.media.get(2),
        "edited_at": message.edited_at, "unsent_at": message.unsent_at, "phones": message.phones.len(),
    });
    if let Some(fields) = all.as_object_mut().filter(|_| texts) {
        fields.insert("text".to_owned(), json!(message.text));
        fields.insert("phones".to_owned(), json!(message.phones));
    }
    all
}
