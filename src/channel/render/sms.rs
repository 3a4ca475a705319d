//! Text messages (pure): the name of who sends, a blank, the text. Button and image have no place in one.
//!
//! Why the name: in Taiwan a carrier passes a commercial message only when it states the registered sender, first. Why a blank: a
//! merchant's text has up to 150 characters of GSM-7, the name `EasyStore` nine, and one message 160.
//!
//! It must never carry a link or a phone number that the merchant's own text does not have: what a customer typed as a name could
//! complete one (`shop.` and `tw`), and nobody would have looked at it.

use super::form::{Escape, Form, Values};
use crate::channel::{
    Content, link,
    merge::{Field, customer_value},
    sms::Contacts,
};

/// A broadcast's text message.
pub(super) struct Text {
    form: Form,
    /// What everybody gets whose own name cannot stand there.
    impersonal: String,
    contacts: Contacts,
}

impl Text {
    pub(super) fn new(content: &Content, sender_name: &str, shop_url: &str) -> Self {
        let mut form = Form::new(Escape::Plain);
        form.raw(sender_name).raw(" ").pattern(&content.text, shop_url);
        let fallback = |field| content.fallbacks.of(field).unwrap_or_default();
        let impersonal = form.fill(&Values {
            first_name: fallback(Field::FirstName),
            last_name: fallback(Field::LastName),
            key: "",
            unsubscribe_url: "",
        });
        Self {
            contacts: Contacts::find(&impersonal),
            form,
            impersonal,
        }
    }

    pub(super) fn render(&self, values: &Values<'_>) -> String {
        if self.form.is_constant() {
            return self.impersonal.clone();
        }
        let text = self.form.fill(values);
        if Contacts::find(&text).within(&self.contacts) {
            text
        } else {
            self.impersonal.clone()
        }
    }
}

/// The text message of a broadcast as it is when nothing is known of a customer: what is counted in segments, and what is looked
/// through for links and numbers before a message leaves.
#[must_use]
pub fn sms_text(content: &Content, sender_name: &str, shop_url: &str) -> String {
    let shop_url = usable_url(content, Some(shop_url));
    Text::new(content, sender_name, shop_url).impersonal
}

/// The text message of a broadcast to a customer of this name, as it is sent.
#[must_use]
pub fn sms_text_to(content: &Content, sender_name: &str, shop_url: &str, (first, last): (&str, &str)) -> String {
    let shop_url = usable_url(content, Some(shop_url));
    let fallback = |field| content.fallbacks.of(field).unwrap_or_default();
    Text::new(content, sender_name, shop_url).render(&Values {
        first_name: customer_value(Some(first), fallback(Field::FirstName)),
        last_name: customer_value(Some(last), fallback(Field::LastName)),
        key: "",
        unsubscribe_url: "",
    })
}

/// The shop's address, or what stands in for it.
pub(super) fn usable_url<'a>(content: &'a Content, shop_url: Option<&'a str>) -> &'a str {
    let shop_url = shop_url.map(str::trim).filter(|url| link::check(url).is_ok());
    shop_url.unwrap_or_else(|| content.fallbacks.of(Field::ShopUrl).unwrap_or_default())
}
