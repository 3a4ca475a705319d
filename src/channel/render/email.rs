//! Email (pure): headers, and one message as plain text and as HTML.
//!
//! Why by hand: a mail is a handful of constant stretches around two base64 bodies; a message builder would parse and
//! encode the constant part again for each of a million customers.
//!
//! It must never let a value open a header of its own: every value passes an escape that leaves no line break.

use base64::{Engine, engine::general_purpose::STANDARD};
use carillon_jobs::{BroadcastId, CustomerId};

use super::{
    Letterhead,
    form::{Blank, Escape, Form, Values},
};
use crate::channel::{Content, DeliveryMark, ReturnPathKey, merge::Pattern, sender::EmailAccount};

/// Base64 never contains `=_`, so no body can hold it.
const BOUNDARY: &str = "=_carillon";

/// A broadcast's mail.
pub(super) struct Mail {
    head: Form,
    subject: Form,
    /// Instead of a subject that came out blank.
    shop_name: String,
    text: Form,
    html: Form,
    /// Makes return paths in this mailbox.
    bounces: Option<(ReturnPathKey, String)>,
    broadcast: BroadcastId,
}

impl Mail {
    pub(super) fn new(content: &Content, letterhead: &Letterhead<'_>, account: &EmailAccount, shop_url: &str) -> Self {
        let first_line = content.text.first_line();
        let subject_pattern = content.subject.as_ref().unwrap_or(&first_line);
        let mut subject = Form::new(Escape::Plain);
        subject.pattern(subject_pattern, shop_url);
        Self {
            head: head(letterhead, account),
            subject,
            shop_name: letterhead.shop_name.to_owned(),
            text: text(content, letterhead, shop_url),
            html: html(content, letterhead, shop_url, subject_pattern),
            bounces: account
                .bounce_secret
                .as_deref()
                .map(|secret| (ReturnPathKey::new(secret), account.return_path.to_string())),
            broadcast: letterhead.broadcast,
        }
    }

    /// The envelope sender by which a bounce names this delivery; `None`: the account's own does.
    pub(super) fn return_path(&self, customer: CustomerId) -> Option<String> {
        let (key, mailbox) = self.bounces.as_ref()?;
        let mark = DeliveryMark {
            broadcast: self.broadcast,
            customer,
        };
        key.address(mark, mailbox)
    }

    pub(super) fn render(&self, values: &Values<'_>) -> String {
        let head = self.head.fill(values);
        let text = self.text.fill(values);
        let html = self.html.fill(values);
        let subject = self.subject.fill(values);
        let subject = if subject.trim().is_empty() {
            &self.shop_name
        } else {
            &subject
        };
        let mut mail = String::with_capacity(head.len() + (text.len() + html.len()) * 3 / 2 + 1_024);
        mail.push_str(&head);
        mail.push_str("Subject: ");
        write_words(&mut mail, subject, "Subject: ".len());
        mail.push_str("\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=\"");
        mail.push_str(BOUNDARY);
        mail.push_str("\"\r\n\r\n");
        for (kind, body) in [("plain", &text), ("html", &html)] {
            mail.extend(["--", BOUNDARY, "\r\nContent-Type: text/", kind, "; charset=utf-8\r\n"]);
            mail.push_str("Content-Transfer-Encoding: base64\r\n\r\n");
            write_base64_lines(&mut mail, body);
        }
        mail.extend(["--", BOUNDARY, "--\r\n"]);
        mail
    }
}

/// The headers but `Date`, `To` and `Subject`.
///
/// `List-Unsubscribe-Post` makes the https link one-click (RFC 8058): bulk mail without it is refused by the large
/// mailbox providers.
fn head(letterhead: &Letterhead<'_>, account: &EmailAccount) -> Form {
    let mut form = Form::new(Escape::Header);
    let from: &str = account.from.as_ref();
    let domain = account.from.domain();
    let shop = letterhead.shop.0.simple().to_string();
    let broadcast = letterhead.broadcast.0.simple().to_string();
    let unsubscribe: &str = account.unsubscribe_mailbox.as_ref();

    let mut name = String::new();
    let from_name = account.from_name.as_deref().unwrap_or(letterhead.shop_name);
    write_display_name(&mut name, from_name);
    form.raw("From: ").raw(&name).raw(" <").text(from).raw(">\r\n");
    if let Some(reply_to) = &account.reply_to {
        form.raw("Reply-To: <").text(reply_to.as_ref()).raw(">\r\n");
    }
    form.raw("Message-ID: <")
        .blank(Blank::Key)
        .raw("@")
        .text(domain)
        .raw(">\r\n");
    form.raw("List-Unsubscribe: <")
        .blank(Blank::UnsubscribeUrl)
        .raw(">,\r\n <mailto:")
        .text(unsubscribe);
    form.raw("?subject=unsubscribe-").blank(Blank::Key).raw(">\r\n");
    form.raw("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
    form.raw("List-ID: <").text(&shop).raw(".").text(domain).raw(">\r\n");
    form.raw("Feedback-ID: ")
        .text(&broadcast)
        .raw(":")
        .text(&shop)
        .raw(":broadcast:carillon\r\n");
    form.raw("Precedence: bulk\r\nAuto-Submitted: auto-generated\r\n");
    form
}

fn text(content: &Content, letterhead: &Letterhead<'_>, shop_url: &str) -> Form {
    let mut form = Form::new(Escape::Plain);
    form.pattern(&content.text, shop_url).raw("\n");
    if let Some(button) = &content.button {
        form.raw("\n").text(&button.label).raw(": ").text(&button.url).raw("\n");
    }
    form.raw("\n-- \n")
        .text(letterhead.shop_name)
        .raw("\n取消訂閱 Unsubscribe: ");
    form.blank(Blank::UnsubscribeUrl).raw("\n");
    form
}

/// Tables and inline styles: what mail programs of every age agree on.
fn html(content: &Content, letterhead: &Letterhead<'_>, shop_url: &str, subject: &Pattern) -> Form {
    const FONT: &str = "font-family:'PingFang TC','Microsoft JhengHei','Noto Sans TC',Helvetica,Arial,sans-serif";
    let mut form = Form::new(Escape::Html);
    form.raw("<!DOCTYPE html>\n<html lang=\"zh-Hant-TW\">\n<head>\n<meta charset=\"utf-8\">\n");
    form.raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
    form.pattern(subject, shop_url).raw("</title>\n</head>\n");
    form.raw("<body style=\"margin:0;padding:0;background:#f4f4f5\">\n");
    form.raw("<table role=\"presentation\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\"");
    form.raw(" style=\"background:#f4f4f5\"><tr><td align=\"center\" style=\"padding:24px 12px\">\n");
    form.raw("<table role=\"presentation\" width=\"100%\" cellpadding=\"0\" cellspacing=\"0\" border=\"0\"");
    form.raw(" style=\"max-width:560px;background:#ffffff;border-radius:8px\">\n");
    if let Some(image) = &content.image_url {
        form.raw("<tr><td><img src=\"")
            .text(image)
            .raw("\" alt=\"\" width=\"560\"");
        form.raw(" style=\"display:block;width:100%;height:auto;border:0;border-radius:8px 8px 0 0\"></td></tr>\n");
    }
    form.raw("<tr><td style=\"padding:28px 28px 12px;font-size:16px;line-height:1.7;color:#18181b;");
    form.raw(FONT)
        .raw("\">")
        .pattern(&content.text, shop_url)
        .raw("</td></tr>\n");
    if let Some(button) = &content.button {
        form.raw("<tr><td style=\"padding:12px 28px 20px\"><a href=\"")
            .text(&button.url);
        form.raw("\" style=\"display:inline-block;padding:12px 24px;background:#18181b;color:#ffffff;");
        form.raw("text-decoration:none;border-radius:6px;font-size:16px;")
            .raw(FONT)
            .raw("\">");
        form.text(&button.label).raw("</a></td></tr>\n");
    }
    form.raw("<tr><td style=\"padding:16px 28px 24px;border-top:1px solid #e4e4e7;font-size:12px;line-height:1.6;");
    form.raw("color:#71717a;")
        .raw(FONT)
        .raw("\">")
        .text(letterhead.shop_name)
        .raw("<br>\n<a href=\"");
    form.blank(Blank::UnsubscribeUrl)
        .raw("\" style=\"color:#71717a\">取消訂閱 Unsubscribe</a></td></tr>\n");
    form.raw("</table>\n</td></tr></table>\n</body>\n</html>\n");
    form
}

/// 57 bytes make a line of 76 characters.
fn write_base64_lines(out: &mut String, body: &str) {
    // Mail has CRLF line ends inside text too, whatever the transfer encoding.
    let body = body.replace('\n', "\r\n");
    for line in body.as_bytes().chunks(57) {
        STANDARD.encode_string(line, out);
        out.push_str("\r\n");
    }
}

/// A name before an address: quoted when it is plain, else encoded words.
fn write_display_name(out: &mut String, name: &str) {
    if plain(name) && name.len() <= 60 {
        out.push('"');
        for c in name.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    } else {
        write_words(out, name, 80);
    }
}

/// Text in a header: as it is when that is safe and short, else encoded words (RFC 2047), folded.
///
/// `used` is how much of the line is taken. No line break of the text survives either way.
fn write_words(out: &mut String, text: &str, used: usize) {
    let text = text.trim();
    if plain(text) && used + text.len() <= 76 {
        return out.push_str(text);
    }
    // 42 bytes make 56 base64 characters: with `=?utf-8?B?` and `?=` a word is at most 68, below the limit of 75.
    let mut word = String::with_capacity(48);
    let mut first = true;
    let mut flush = |word: &mut String| {
        if !word.is_empty() {
            out.push_str(if std::mem::take(&mut first) {
                "=?utf-8?B?"
            } else {
                "\r\n =?utf-8?B?"
            });
            STANDARD.encode_string(&*word, out);
            out.push_str("?=");
            word.clear();
        }
    };
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if word.len() + c.len_utf8() > 42 {
            flush(&mut word);
        }
        word.push(c);
    }
    flush(&mut word);
}

/// Printable ASCII that no reader takes for an encoded word.
fn plain(text: &str) -> bool {
    text.bytes().all(|b| (0x20..0x7f).contains(&b)) && !text.contains("=?")
}
