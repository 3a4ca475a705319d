//! The bodies of the providers' webhooks, with the fields theirs have.

/// LINE: `{"destination", "events"}`.
pub mod line {
    use serde_json::{Value, json};

    /// Events to one official account.
    pub fn body(bot_user_id: &str, events: &[Value]) -> Value {
        json!({"destination": bot_user_id, "events": events})
    }

    /// Somebody wrote.
    pub fn text(event_id: &str, user: &str, at_ms: i64, message_id: &str, text: &str) -> Value {
        let message = json!({"type": "text", "id": message_id, "quoteToken": "q3Plxr4AgKd", "text": text});
        event(
            "message",
            event_id,
            user,
            at_ms,
            &[("replyToken", json!(event_id)), ("message", message)],
        )
    }

    /// Somebody sent a picture.
    pub fn image(event_id: &str, user: &str, at_ms: i64, message_id: &str) -> Value {
        let message =
            json!({"type": "image", "id": message_id, "contentProvider": {"type": "line"}, "quoteToken": "q3"});
        event(
            "message",
            event_id,
            user,
            at_ms,
            &[("replyToken", json!(event_id)), ("message", message)],
        )
    }

    /// Somebody follows the account.
    pub fn follow(event_id: &str, user: &str, at_ms: i64) -> Value {
        let more = [
            ("replyToken", json!(event_id)),
            ("follow", json!({"isUnblocked": false})),
        ];
        event("follow", event_id, user, at_ms, &more)
    }

    /// Somebody blocked the account.
    pub fn unfollow(event_id: &str, user: &str, at_ms: i64) -> Value {
        event("unfollow", event_id, user, at_ms, &[])
    }

    /// Somebody took a message back.
    pub fn unsend(event_id: &str, user: &str, at_ms: i64, message_id: &str) -> Value {
        event(
            "unsend",
            event_id,
            user,
            at_ms,
            &[("unsend", json!({"messageId": message_id}))],
        )
    }

    /// Somebody pressed a button.
    pub fn postback(event_id: &str, user: &str, at_ms: i64, data: &str) -> Value {
        let more = [("replyToken", json!(event_id)), ("postback", json!({"data": data}))];
        event("postback", event_id, user, at_ms, &more)
    }

    /// An event of any type.
    pub fn event(kind: &str, event_id: &str, user: &str, at_ms: i64, more: &[(&str, Value)]) -> Value {
        let mut event = json!({
            "type": kind, "mode": "active", "timestamp": at_ms, "webhookEventId": event_id,
            "source": {"type": "user", "userId": user}, "deliveryContext": {"isRedelivery": false},
        });
        if let Some(fields) = event.as_object_mut() {
            fields.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        }
        event
    }
}

/// Messenger: `{"object": "page", "entry"}`.
pub mod messenger {
    use serde_json::{Value, json};

    /// What happened on one page.
    pub fn body(page: &str, at_ms: i64, messaging: &[Value]) -> Value {
        json!({"object": "page", "entry": [{"id": page, "time": at_ms, "messaging": messaging}]})
    }

    /// Somebody wrote.
    pub fn text(page: &str, psid: &str, at_ms: i64, mid: &str, text: &str) -> Value {
        between(psid, page, at_ms, "message", &json!({"mid": mid, "text": text}))
    }

    /// The page wrote, with our metadata or without.
    pub fn echo(page: &str, psid: &str, at_ms: i64, mid: &str, text: &str, metadata: Option<&str>) -> Value {
        let mut message = json!({"mid": mid, "is_echo": true, "app_id": 1_517_776_481_860_111_u64, "text": text});
        if let (Some(metadata), Some(fields)) = (metadata, message.as_object_mut()) {
            fields.insert("metadata".to_owned(), metadata.into());
        }
        between(page, psid, at_ms, "message", &message)
    }

    /// Everything sent before the watermark has arrived.
    pub fn delivered(page: &str, psid: &str, at_ms: i64, mids: &[&str], watermark_ms: i64) -> Value {
        between(
            psid,
            page,
            at_ms,
            "delivery",
            &json!({"mids": mids, "watermark": watermark_ms}),
        )
    }

    /// Everything sent before the watermark was seen.
    pub fn read(page: &str, psid: &str, at_ms: i64, watermark_ms: i64) -> Value {
        between(psid, page, at_ms, "read", &json!({"watermark": watermark_ms}))
    }

    /// Somebody came from an advertisement.
    pub fn referral(page: &str, psid: &str, at_ms: i64, ad: &str, title: &str) -> Value {
        let referral = json!({"ref": "spring", "ad_id": ad, "source": "ADS", "type": "OPEN_THREAD",
            "ads_context_data": {"ad_title": title, "post_id": "1"}});
        between(psid, page, at_ms, "referral", &referral)
    }

    fn between(sender: &str, recipient: &str, at_ms: i64, name: &str, what: &Value) -> Value {
        json!({"sender": {"id": sender}, "recipient": {"id": recipient}, "timestamp": at_ms, name: what})
    }
}

/// WhatsApp: `{"object": "whatsapp_business_account", "entry"}`.
pub mod whatsapp {
    use serde_json::{Value, json};

    /// What happened on one number.
    pub fn body(phone_number_id: &str, messages: &[Value], statuses: &[Value]) -> Value {
        let mut value = json!({"messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "886900000000", "phone_number_id": phone_number_id}});
        if let Some(fields) = value.as_object_mut() {
            if !messages.is_empty() {
                let from = messages.first().and_then(|message| message.get("from"));
                let contact = json!({"profile": {"name": "王小明"}, "wa_id": from});
                fields.insert("contacts".to_owned(), json!([contact]));
                fields.insert("messages".to_owned(), json!(messages));
            }
            if !statuses.is_empty() {
                fields.insert("statuses".to_owned(), json!(statuses));
            }
        }
        json!({"object": "whatsapp_business_account",
            "entry": [{"id": "102290129340398", "changes": [{"field": "messages", "value": value}]}]})
    }

    /// Somebody wrote.
    pub fn text(from: &str, at_secs: i64, wamid: &str, text: &str) -> Value {
        json!({"from": from, "id": wamid, "timestamp": at_secs.to_string(), "type": "text", "text": {"body": text}})
    }

    /// What became of a message: `sent`, `delivered`, `read` or `failed`, the last with its code.
    pub fn status(to: &str, at_secs: i64, wamid: &str, status: &str, mark: Option<&str>, code: Option<u32>) -> Value {
        let mut receipt = json!({"id": wamid, "status": status, "timestamp": at_secs.to_string(), "recipient_id": to});
        if let Some(fields) = receipt.as_object_mut() {
            if let Some(mark) = mark {
                fields.insert("biz_opaque_callback_data".to_owned(), mark.into());
            }
            if let Some(code) = code {
                let error = json!({"code": code, "title": "Message undeliverable", "message": "Message undeliverable"});
                fields.insert("errors".to_owned(), json!([error]));
            }
        }
        receipt
    }
}

/// Twilio: fields of a form.
pub mod twilio {
    /// What became of a message; the code only where it failed.
    pub fn status<'a>(sid: &'a str, status: &'a str, to: &'a str, code: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
        let mut fields = vec![
            ("MessageSid", sid),
            ("SmsSid", sid),
            ("MessageStatus", status),
            ("SmsStatus", status),
            ("To", to),
            ("From", "+15005550006"),
            ("AccountSid", "AC00000000000000000000000000000000"),
            ("ApiVersion", "2010-04-01"),
        ];
        fields.extend(code.map(|code| ("ErrorCode", code)));
        fields
    }

    /// Somebody wrote.
    pub fn text<'a>(sid: &'a str, from: &'a str, text: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            ("MessageSid", sid),
            ("SmsSid", sid),
            ("SmsStatus", "received"),
            ("From", from),
            ("To", "+15005550006"),
            ("Body", text),
            ("NumMedia", "0"),
            ("AccountSid", "AC00000000000000000000000000000000"),
            ("ApiVersion", "2010-04-01"),
        ]
    }
}

/// Mitake: fields of a query.
pub mod mitake {
    /// What became of a message: the flag `4` is delivered, `5` to `8` are failures. Times are `YYYYMMDDHHMMSS`.
    pub fn status<'a>(
        msgid: &'a str,
        to: &'a str,
        flag: &'a str,
        word: &'a str,
        at: &'a str,
    ) -> Vec<(&'a str, &'a str)> {
        vec![
            ("msgid", msgid),
            ("dstaddr", to),
            ("dlvtime", at),
            ("donetime", at),
            ("statuscode", "0"),
            ("statusstr", word),
            ("StatusFlag", flag),
        ]
    }
}

/// A shop front: `{"events"}`.
pub mod store {
    use serde_json::{Value, json};

    /// Events of one shop.
    pub fn body(events: &[Value]) -> Value {
        json!({ "events": events })
    }

    /// Somebody wrote on the shop's pages, or beside an order.
    pub fn text(
        event_id: &str,
        customer: &str,
        at_ms: i64,
        message_id: &str,
        text: &str,
        order: Option<&str>,
    ) -> Value {
        let mut event = about(
            if order.is_some() { "order_message" } else { "message" },
            event_id,
            customer,
            at_ms,
            &json!({"id": message_id, "text": text}),
        );
        if let (Some(order), Some(fields)) = (order, event.as_object_mut()) {
            fields.insert("order".to_owned(), json!({ "number": order }));
        }
        event
    }

    /// Somebody of the shop answered on its pages.
    pub fn answer(event_id: &str, customer: &str, at_ms: i64, message_id: &str, text: &str) -> Value {
        let message = json!({"id": message_id, "text": text});
        about("staff_message", event_id, customer, at_ms, &message)
    }

    /// Somebody took a message back.
    pub fn unsend(event_id: &str, customer: &str, at_ms: i64, message_id: &str) -> Value {
        about(
            "message_unsent",
            event_id,
            customer,
            at_ms,
            &json!({ "id": message_id }),
        )
    }

    fn about(kind: &str, event_id: &str, customer: &str, at_ms: i64, message: &Value) -> Value {
        json!({"id": event_id, "type": kind, "at": at_ms, "customer": {"external_id": customer}, "message": message})
    }
}

/// A mail server: reports of what became of a mail (RFC 3464), in the form Postfix writes them.
pub mod mail {
    /// To the return path of the mail it is about; `action` is `failed`, `delayed`, `delivered` or `relayed`, `status` like
    /// `5.1.1`, `date` as mails have it.
    pub fn report(return_path: &str, recipient: &str, action: &str, status: &str, date: &str) -> Vec<u8> {
        format!(
            "Return-Path: <>\r\nDate: {date}\r\nFrom: MAILER-DAEMON@mx.example\r\nSubject: Mail Delivery Report\r\n\
             To: {return_path}\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n\
             \tboundary=\"B/mx.example\"\r\n\r\nThis is a MIME-encapsulated message.\r\n\r\n--B/mx.example\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\nThis is the mail system.\r\n\r\n--B/mx.example\r\n\
             Content-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n\
             Reporting-MTA: dns; mx.example\r\n\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: {action}\r\n\
             Status: {status}\r\n\r\n--B/mx.example--\r\n"
        )
        .into_bytes()
    }
}
