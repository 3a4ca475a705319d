//! Whether a WhatsApp number is connected as it has to be, asked of Meta itself: which number it is, how many people a day it may
//! write to first, and how Meta rates it.
//!
//! It must never change anything.

use serde::Deserialize;

use super::{NumberAccount, Whatsapp};
use crate::channel::{
    check::{Checked, Finding},
    graph::{GraphError, read},
};

const FIELDS: &str =
    "display_phone_number,verified_name,quality_rating,throughput,whatsapp_business_manager_messaging_limit";

#[derive(Deserialize)]
struct Number {
    id: String,
    #[serde(rename = "display_phone_number")]
    dialled: String,
    #[serde(default)]
    verified_name: String,
    #[serde(default)]
    quality_rating: String,
    #[serde(default)]
    whatsapp_business_manager_messaging_limit: String,
}

impl Whatsapp {
    /// Asks Meta.
    pub(in crate::channel) async fn check(&self, account: &NumberAccount) -> Checked {
        let asked = async {
            let mut url = self.graph.url(&account.phone_number_id, &account.access)?;
            url.query_pairs_mut().append_pair("fields", FIELDS);
            self.graph.get(url, &account.access).await.ok()
        };
        let Some(answer) = asked.await else {
            return Checked {
                findings: vec![silent()],
            };
        };
        let number =
            read::<Number>(&answer).filter(|number| answer.status == 200 && number.id == account.phone_number_id);
        let findings = match (number, GraphError::of(&answer)) {
            (Some(number), _) => vec![which(&number), quality(&number), limit(&number), template(account)],
            (None, Some(error)) if error.about_the_proof() => vec![Finding::bad(
                "app_secret_wrong",
                "應用程式密鑰不正確：請到 Meta 應用程式後台的「設定 › 基本資料」重新複製。",
                "The app secret does not fit the token: copy it again from Settings › Basic of the Meta app.",
            )],
            (None, Some(error)) if error.code == 190 || answer.status == 401 => vec![Finding::bad(
                "token_invalid",
                "存取權杖無效或已過期：請以系統使用者重新產生權杖。",
                "The access token is invalid or has expired: issue a new one for a system user.",
            )],
            (None, Some(error)) => {
                let code = error.name();
                vec![Finding::bad(
                    "number_refused",
                    format!("權杖無法使用這個電話號碼（代碼 {code}）：請確認電話號碼編號，並把號碼指派給系統使用者。"),
                    format!(
                        "The token may not use this number (code {code}): check the phone number id, and assign the number to the system user."
                    ),
                )]
            }
            (None, None) => vec![silent()],
        };
        Checked { findings }
    }
}

fn which(number: &Number) -> Finding {
    let (dialled, name) = (&number.dialled, &number.verified_name);
    Finding::good(
        "number",
        format!("存取權杖有效，號碼為 {dialled}，顯示名稱「{name}」。"),
        format!("The access token is valid; the number is {dialled}, shown as “{name}”."),
    )
}

fn quality(number: &Number) -> Finding {
    match number.quality_rating.as_str() {
        "GREEN" => Finding::good("quality", "訊息品質良好。", "Meta rates the messages as good."),
        "YELLOW" => Finding::warning(
            "quality_medium",
            "訊息品質中等：封鎖或檢舉增加時，每日上限會被調降。",
            "Meta rates the messages as medium: more blocks or reports will lower the daily limit.",
        ),
        "RED" => Finding::warning(
            "quality_low",
            "訊息品質不佳，號碼可能被限制：請減少群發，並檢查收件對象是否同意接收。",
            "Meta rates the messages as low and may restrict the number: send less, and only to people who agreed.",
        ),
        _ => Finding::good(
            "quality_unrated",
            "Meta 尚未評定訊息品質。",
            "Meta has not rated the messages yet.",
        ),
    }
}

fn limit(number: &Number) -> Finding {
    let people = match number.whatsapp_business_manager_messaging_limit.as_str() {
        "TIER_50" => "50",
        "TIER_250" => "250",
        "TIER_1K" => "1,000",
        "TIER_2K" => "2,000",
        "TIER_10K" => "10,000",
        "TIER_100K" => "100,000",
        "TIER_UNLIMITED" => {
            return Finding::good(
                "limit",
                "每日主動傳訊人數沒有上限。",
                "There is no daily limit of people to write to first.",
            );
        }
        _ => {
            return Finding::unknown(
                "limit_unknown",
                "無法讀取每日主動傳訊上限。",
                "The daily limit of people to write to first cannot be read.",
            );
        }
    };
    Finding::good(
        "limit",
        format!("24 小時內最多可主動傳訊給 {people} 位顧客（以範本，窗口內回覆不計）。"),
        format!(
            "Within 24 hours at most {people} people can be written to first (by template; replies inside the window do not count)."
        ),
    )
}

fn template(account: &NumberAccount) -> Finding {
    match &account.template {
        Some(template) => {
            let name = &template.name;
            Finding::good(
                "template",
                format!("群發使用範本「{name}」，不受 24 小時窗口限制。"),
                format!("Broadcasts use the template “{name}” and need no 24-hour window."),
            )
        }
        None => Finding::good(
            "no_template",
            "未設定範本：群發只會傳給 24 小時內傳過訊息的顧客。",
            "No template is set: broadcasts reach only customers who wrote within the last 24 hours.",
        ),
    }
}

fn silent() -> Finding {
    Finding::unknown(
        "provider_silent",
        "目前無法連線到 Meta，請稍後再試。",
        "Meta cannot be reached at the moment: try again later.",
    )
}
