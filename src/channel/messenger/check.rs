//! Whether a Facebook page is connected as it has to be, asked of Meta itself.
//!
//! Why it exists: a page that is connected wrong sends nothing, or sends and never hears an answer, and Meta's own words for it
//! help nobody. Asked: is the token good and of this page, may it do what is needed, is the app told of messages, and is it the
//! one that may answer first.
//!
//! It must never change anything but the subscription, and that only where it is asked to.

use serde::Deserialize;

use super::{Messenger, PageAccount};
use crate::channel::{
    check::{Checked, Finding},
    graph::{GraphError, read},
    http::Answer,
};

/// What the token must be allowed to do.
const SCOPES: [&str; 2] = ["pages_messaging", "pages_manage_metadata"];
/// What the app must be told of for receipts, echoes and conversations to work.
const FIELDS: [&str; 5] = [
    "messages",
    "messaging_postbacks",
    "message_echoes",
    "message_deliveries",
    "message_reads",
];
/// And what it is told of beside them where it subscribes itself.
const ALL_FIELDS: &str = "messages,messaging_postbacks,message_echoes,message_deliveries,message_reads,messaging_referrals,messaging_optins,leadgen";

#[derive(Deserialize)]
struct Me {
    id: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Debugged {
    data: Token,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    is_valid: bool,
    /// Seconds since 1970; 0: never.
    #[serde(default)]
    expires_at: i64,
    #[serde(default)]
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<ListedApp>,
}

#[derive(Deserialize)]
struct ListedApp {
    #[serde(default)]
    id: String,
    #[serde(default)]
    subscribed_fields: Vec<String>,
}

impl Messenger {
    /// Asks Meta. `mend`: subscribes the app to the page's messages if it is not.
    pub(in crate::channel) async fn check(&self, account: &PageAccount, mend: bool) -> Checked {
        let mut findings = Vec::new();
        let whose = self.whose(account).await;
        let is_page = whose.id == "page";
        findings.push(whose);
        if is_page {
            findings.push(self.allowed(account).await);
            findings.push(self.subscribed(account, mend).await);
            findings.push(self.receives_first(account).await);
        }
        Checked { findings }
    }

    async fn ask(&self, account: &PageAccount, path: &str, query: &[(&str, &str)]) -> Option<Answer> {
        let mut url = self.graph.url(path, &account.access)?;
        url.query_pairs_mut().extend_pairs(query);
        self.graph.get(url, &account.access).await.ok()
    }

    async fn whose(&self, account: &PageAccount) -> Finding {
        let Some(answer) = self.ask(account, "me", &[("fields", "id,name")]).await else {
            return unreachable();
        };
        if let Some(me) = read::<Me>(&answer).filter(|_| answer.status == 200) {
            if me.id == account.page_id {
                let name = me.name;
                return Finding::good(
                    "page",
                    format!("存取權杖有效，粉絲專頁為「{name}」。"),
                    format!("The access token is valid; the page is “{name}”."),
                );
            }
            return Finding::bad(
                "token_of_other_page",
                "存取權杖屬於另一個粉絲專頁：請重新連結，並選擇正確的粉絲專頁。",
                "The access token belongs to another page: connect again and choose the right page.",
            );
        }
        match GraphError::of(&answer) {
            Some(error) if error.about_the_proof() => Finding::bad(
                "app_secret_wrong",
                "應用程式密鑰不正確：請到 Meta 應用程式後台的「設定 › 基本資料」重新複製。",
                "The app secret does not fit the token: copy it again from Settings › Basic of the Meta app.",
            ),
            Some(error) if error.code == 190 || answer.status == 401 => Finding::bad(
                "token_invalid",
                "存取權杖無效或已過期（例如變更過密碼、移除了應用程式）：請重新連結粉絲專頁。",
                "The access token is invalid or has expired (a changed password, a removed app): connect the page again.",
            ),
            Some(error) => {
                let code = error.name();
                Finding::bad(
                    "token_refused",
                    format!("Meta 拒絕了這個存取權杖（代碼 {code}）：請重新連結粉絲專頁。"),
                    format!("Meta refuses this access token (code {code}): connect the page again."),
                )
            }
            None => unreachable(),
        }
    }

    async fn allowed(&self, account: &PageAccount) -> Finding {
        let Some(app) = &account.app else {
            return Finding::warning(
                "app_unknown",
                "尚未設定應用程式編號與密鑰，無法確認權限，呼叫時也不會附上驗證碼：請填入 app_id 與 app_secret。",
                "App id and secret are not set, so permissions cannot be checked and requests carry no proof: fill in app_id and app_secret.",
            );
        };
        let asked = async {
            let mut url = self.graph.url("debug_token", &app.access)?;
            url.query_pairs_mut().append_pair("input_token", account.access.token());
            let answer = self.graph.get(url, &app.access).await.ok()?;
            (answer.status == 200).then(|| read::<Debugged>(&answer))?
        };
        let Some(Debugged { data: token }) = asked.await else {
            let id = &app.id;
            return Finding::warning(
                "app_refused",
                format!("無法以應用程式 {id} 查詢權杖的權限：請確認 app_id 與 app_secret 屬於同一個應用程式。"),
                format!("App {id} may not ask about the token: check that app_id and app_secret belong to one app."),
            );
        };
        if !token.is_valid {
            return Finding::bad(
                "token_invalid",
                "存取權杖無效或已過期：請重新連結粉絲專頁。",
                "The access token is invalid or has expired: connect the page again.",
            );
        }
        let missing = SCOPES
            .into_iter()
            .filter(|scope| !token.scopes.iter().any(|held| held == scope));
        let missing = missing.collect::<Vec<_>>().join(", ");
        if !missing.is_empty() {
            return Finding::bad(
                "scope_missing",
                format!("缺少權限 {missing}：請重新連結，並在 Facebook 的視窗中同意所有權限。"),
                format!("The permission {missing} is missing: connect again and agree to everything Facebook asks."),
            );
        }
        match chrono::DateTime::from_timestamp(token.expires_at, 0).filter(|_| token.expires_at > 0) {
            Some(at) => {
                let day = at.format("%Y-%m-%d");
                Finding::warning(
                    "token_expires",
                    format!("權限齊全，但存取權杖將於 {day} 到期：請在那之前重新連結。"),
                    format!("All permissions are there, but the token expires on {day}: connect again before then."),
                )
            }
            None => Finding::good(
                "scopes",
                "權限齊全，權杖不會到期。",
                "All permissions are there; the token does not expire.",
            ),
        }
    }

    async fn subscribed(&self, account: &PageAccount, mend: bool) -> Finding {
        let path = format!("{}/subscribed_apps", account.page_id);
        let good = Finding::good(
            "subscribed",
            "已訂閱粉絲專頁的訊息與送達回報。",
            "Subscribed to the page's messages and receipts.",
        );
        let Some(answer) = self.ask(account, &path, &[("fields", "id,subscribed_fields")]).await else {
            return unreachable();
        };
        let Some(listed) = read::<Listed>(&answer).filter(|_| answer.status == 200) else {
            return Finding::unknown(
                "subscription_unknown",
                "無法查詢訊息訂閱狀態：請確認連結時的帳號是粉絲專頁的管理員。",
                "The subscription cannot be read: connect with an account that manages the page.",
            );
        };
        let ours = |one: &&ListedApp| account.app.as_ref().is_none_or(|app| app.id == one.id);
        let fields = listed
            .data
            .iter()
            .find(ours)
            .map(|app| app.subscribed_fields.as_slice());
        let has_all = |held: &[String]| FIELDS.iter().all(|field| held.iter().any(|one| one == field));
        if fields.is_some_and(has_all) {
            return good;
        }
        if mend && self.subscribe(account, &path).await {
            return good;
        }
        Finding::bad(
            "not_subscribed",
            "尚未訂閱粉絲專頁的訊息，收不到顧客訊息與送達回報：請執行修復，或重新連結粉絲專頁。",
            "Not subscribed to the page's messages, so neither messages nor receipts come in: mend it, or connect the page again.",
        )
    }

    async fn subscribe(&self, account: &PageAccount, path: &str) -> bool {
        let Some(mut url) = self.graph.url(path, &account.access) else {
            return false;
        };
        url.query_pairs_mut().append_pair("subscribed_fields", ALL_FIELDS);
        let answer = self.graph.post(url, &account.access, b"{}".to_vec()).await;
        answer.is_ok_and(|answer| {
            #[derive(Deserialize)]
            struct Done {
                success: bool,
            }
            answer.status == 200 && read::<Done>(&answer).is_some_and(|done| done.success)
        })
    }

    /// Only the primary receiver may ask who comes second.
    async fn receives_first(&self, account: &PageAccount) -> Finding {
        let path = format!("{}/secondary_receivers", account.page_id);
        let Some(answer) = self.ask(account, &path, &[("fields", "id,name")]).await else {
            return unreachable();
        };
        if answer.status == 200 && read::<Listed>(&answer).is_some() {
            return Finding::good(
                "primary_receiver",
                "本平台是這個粉絲專頁的主要接收者，能即時收到訊息。",
                "This platform is the page's primary receiver and gets messages at once.",
            );
        }
        match GraphError::of(&answer) {
            Some(error) if matches!(error.code, 10 | 200) => Finding::warning(
                "not_primary_receiver",
                "本平台不是這個粉絲專頁的主要接收者，可能收不到訊息：請到粉絲專頁「設定 › 進階訊息 › 應用程式設定」，將 Messenger 接收者改為本平台。",
                "This platform is not the page's primary receiver and may miss messages: in the page's Settings › Advanced messaging › App \
                 settings, choose it as the Messenger receiver.",
            ),
            Some(_) | None => Finding::unknown(
                "receiver_unknown",
                "無法確認主要接收者；若收不到訊息，請到粉絲專頁「設定 › 進階訊息」查看。",
                "The primary receiver cannot be read; where no messages come in, look at the page's Settings › Advanced messaging.",
            ),
        }
    }
}

fn unreachable() -> Finding {
    Finding::unknown(
        "provider_silent",
        "目前無法連線到 Meta，請稍後再試。",
        "Meta cannot be reached at the moment: try again later.",
    )
}
