//! The small pages that customers see: one frame, both languages, nothing loaded from elsewhere, no script, no cookie.
//!
//! Texts given to the frame are escaped here and nowhere else.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
    ),
    (
        HeaderName::from_static("x-robots-tag"),
        HeaderValue::from_static("noindex, nofollow"),
    ),
];

const STYLE: &str = "
:root{color-scheme:light dark;--page:#f4f1ec;--card:#fffdfa;--ink:#26221d;--soft:#6b6359;--line:#e4dcd0;--act:#9a3b1f;--on:#fff}
@media(prefers-color-scheme:dark){:root{--page:#171512;--card:#211e1a;--ink:#f1ebe2;--soft:#b3a99b;--line:#3a352e;--act:#e58a63;--on:#1d140f}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--page);color:var(--ink);
font:1.0625rem/1.75 system-ui,-apple-system,'PingFang TC','Noto Sans TC','Microsoft JhengHei',sans-serif}
main{width:100%;max-width:27rem;padding:2.5rem 2rem 2rem;background:var(--card);border:1px solid var(--line);border-radius:1rem}
.mark{display:block;width:2.75rem;height:2.75rem;margin:0 0 1.25rem -.6rem;color:var(--act)}
h1{margin:0 0 .5rem;font-size:1.4rem;line-height:1.4;letter-spacing:.01em;text-wrap:balance}
p{margin:0 0 1rem;overflow-wrap:anywhere}
button{width:100%;min-height:3rem;margin:.75rem 0 0;padding:.6rem 1rem;border:0;border-radius:.6rem;background:var(--act);color:var(--on);
font:inherit;font-weight:600;cursor:pointer}
button:hover{filter:brightness(1.08)}
button:focus-visible{outline:3px solid var(--ink);outline-offset:3px}
.second{margin:1.75rem 0 0;padding:1.25rem 0 0;border-top:1px solid var(--line);color:var(--soft);font-size:.9375rem;line-height:1.6}
.second h2{margin:0 0 .25rem;font-size:1rem;color:var(--ink)}
.second p{margin:0}
";

/// A bell at rest; decoration only.
const MARK: &str = "<svg class=\"mark\" viewBox=\"0 0 44 44\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"2.6\" \
     stroke-linecap=\"round\" stroke-linejoin=\"round\" aria-hidden=\"true\"><path d=\"M22 6v4M10 32c4-3 3-9 4-13 1-5 4-8 8-8s7 3 8 8\
     c1 4 0 10 4 13zM19 37c1 1.500 5 1.500 6 0\"/></svg>";

/// What a page says, in zh-TW and in English.
pub(super) struct Message {
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
    pub(super) text: String,
    pub(super) title_en: &'static str,
    pub(super) text_en: String,
    /// The label of the one button, which sends the page's own address as a POST.
    pub(super) button: Option<&'static str>,
}

impl IntoResponse for Message {
    fn into_response(self) -> Response {
        let Self {
            status,
            title,
            text,
            title_en,
            text_en,
            button,
        } = self;
        let (text, text_en) = (escape(&text), escape(&text_en));
        // The same field that a mail program sends by itself (RFC 8058).
        let form = button.map_or_else(String::new, |label| {
            format!(
                "<form method=\"post\"><input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\
                 <button type=\"submit\">{label}</button></form>"
            )
        });
        let html = format!(
            "<!doctype html><html lang=\"zh-Hant-TW\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title} · {title_en}</title>\
             <style>{STYLE}</style></head><body><main>{MARK}<h1>{title}</h1><p>{text}</p>{form}\
             <section class=\"second\" lang=\"en\"><h2>{title_en}</h2><p>{text_en}</p></section></main></body></html>\n"
        );
        (status, HEADERS, Html(html)).into_response()
    }
}

/// An address that leads nowhere.
pub(super) async fn nothing_here() -> Message {
    Message {
        status: StatusCode::NOT_FOUND,
        title: "找不到這個頁面",
        text: "網址可能不完整，請從原來的連結再開啟一次。".to_owned(),
        title_en: "Nothing here",
        text_en: "The address may be incomplete. Please open the original link again.".to_owned(),
        button: None,
    }
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
