//! `/u/{token}`: one-click unsubscribe (RFC 8058). GET asks and changes nothing, because mail scanners open every link; POST
//! acts, whoever sends it: a mail program with its `List-Unsubscribe=One-Click`, or the button of our page.
//!
//! The token is the whole proof, so there is no login, no cookie and no redirect. Doing it twice is as good as once.

use std::time::Duration;

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use carillon_jobs::AddressId;

use super::page::Message;
use crate::app::App;

/// The page is shown without the shop's name rather than late.
const NAME_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn ask(State(app): State<App>, Path(token): Path<String>) -> Message {
    let Some((address, _)) = app.secrets.verify_unsubscribe(&token) else {
        return wrong_link();
    };
    let shop = shop_name(&app, address).await;
    let (from, from_en) = match &shop {
        Some(name) => (format!("「{name}」"), format!(" from {name}")),
        None => ("這家商店".to_owned(), String::new()),
    };
    Message {
        status: StatusCode::OK,
        title: "要取消訂閱嗎？",
        text: format!("按下按鈕後，這個信箱將不再收到{from}寄出的行銷郵件。"),
        title_en: "Unsubscribe?",
        text_en: format!("Press the button and this mailbox gets no more marketing mail{from_en}."),
        button: Some("取消訂閱 · Unsubscribe"),
    }
}

pub(super) async fn act(State(app): State<App>, Path(token): Path<String>) -> Message {
    let Some((address, broadcast)) = app.secrets.verify_unsubscribe(&token) else {
        return wrong_link();
    };
    match opt_out(&app, address).await {
        Ok(()) => {
            tracing::info!(address.id = address.0, broadcast.id = %broadcast, "An address was opted out by its link");
            done()
        }
        Err(error) => {
            tracing::warn!(address.id = address.0, %error, "An opt-out could not be stored; the person was asked to try again");
            try_again()
        }
    }
}

async fn shop_name(app: &App, address: AddressId) -> Option<String> {
    let query = sqlx::query_scalar("SELECT s.name FROM address a JOIN shop s ON s.id = a.shop_id WHERE a.id = $1");
    tokio::time::timeout(NAME_LIMIT, query.bind(address.0).fetch_optional(&app.db))
        .await
        .ok()?
        .ok()?
}

/// The person said no to a mailbox: every customer of this sender who has the same mailbox is meant. An address that was
/// erased meanwhile gets nothing anyhow, which is what was asked for.
async fn opt_out(app: &App, address: AddressId) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT close_address(same.id, 'opted_out', 'one_click')
           FROM address meant
           JOIN address same USING (sender_id, shop_id, address)
          WHERE meant.id = $1",
    )
    .bind(address.0)
    .execute(&app.db)
    .await
    .map(drop)
}

fn done() -> Message {
    Message {
        status: StatusCode::OK,
        title: "已取消訂閱",
        text: "這個信箱不會再收到這家商店的行銷郵件。正在寄送途中的信可能還會收到一封。".to_owned(),
        title_en: "You are unsubscribed",
        text_en:
            "This mailbox gets no more marketing mail from this shop. One that is already on its way may still arrive."
                .to_owned(),
        button: None,
    }
}

fn try_again() -> Message {
    Message {
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "暫時無法處理",
        text: "還沒有取消訂閱。請稍後再按一次。".to_owned(),
        title_en: "Not done yet",
        text_en: "We could not store this just now. Please press the button again in a moment.".to_owned(),
        button: Some("再試一次 · Try again"),
    }
}

fn wrong_link() -> Message {
    Message {
        status: StatusCode::NOT_FOUND,
        title: "連結無效",
        text: "這個取消訂閱連結不完整。請從郵件中的連結再開啟一次。".to_owned(),
        title_en: "This link does not work",
        text_en: "The unsubscribe link is incomplete. Please open it again from the mail.".to_owned(),
        button: None,
    }
}
