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
    sms::{Contacts, is_plain_name},
};

/// A broadcast's text message.
pub(super) struct Text {
    form: Form,
    /// What everybody gets whose own name cannot stand there.
    impersonal: String,
    contacts: Contacts,
    /// A plain name, whichever it is, adds no link and no number.
    plain_names_add_nothing: bool,
}

/// Two names that are nobody's. What a name makes with the text around it differs between them.
const PLAIN_NAMES: [&str; 2] = ["某", "甲乙"];

impl Text {
    pub(super) fn new(content: &Content, sender_name: &str, shop_url: &str) -> Self {
        let mut form = Form::new(Escape::Plain);
        form.raw(sender_name).raw(" ").pattern(&content.text, shop_url);
        let fallback = |field| content.fallbacks.of(field).unwrap_or_default();
        let impersonal = form.fill(&named(fallback(Field::FirstName), fallback(Field::LastName)));
        let contacts = Contacts::find(&impersonal);
        let adds_nothing = |name| {
            let named = form.fill(&named(name, name));
            Contacts::find(&named).within(&contacts)
        };
        Self {
            plain_names_add_nothing: PLAIN_NAMES.into_iter().all(adds_nothing),
            contacts,
            form,
            impersonal,
        }
    }

    pub(super) fn render(&self, values: &Values<'_>) -> String {
        if self.form.is_constant() {
            return self.impersonal.clone();
        }
        let text = self.form.fill(values);
        let plain = [values.first_name, values.last_name].into_iter().all(is_plain_name);
        if (plain && self.plain_names_add_nothing) || Contacts::find(&text).within(&self.contacts) {
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
    Text::new(content, sender_name, shop_url).render(&named(
        customer_value(Some(first), fallback(Field::FirstName)),
        customer_value(Some(last), fallback(Field::LastName)),
    ))
}

/// A text message has no other blanks.
const fn named<'a>(first_name: &'a str, last_name: &'a str) -> Values<'a> {
    Values {
        first_name,
        last_name,
        key: "",
        unsubscribe_url: "",
    }
}

/// The shop's address, or what stands in for it.
pub(super) fn usable_url<'a>(content: &'a Content, shop_url: Option<&'a str>) -> &'a str {
    let shop_url = shop_url.map(str::trim).filter(|url| link::check(url).is_ok());
    shop_url.unwrap_or_else(|| content.fallbacks.of(Field::ShopUrl).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn content(text: &str, fallback: &str) -> Content {
        let fallbacks = json!({"first_name": fallback, "last_name": fallback, "shop_url": "https://shop.example"});
        Content::parse(&json!({"text": text, "fallbacks": fallbacks})).unwrap()
    }

    #[test]
    fn a_plain_name_is_looked_at_where_the_text_around_it_could_make_something_of_it() {
        let host = Text::new(&content("{first_name}.tw", "某"), "EasyStore", "");
        assert!(!host.plain_names_add_nothing, "{}", host.impersonal);
        assert_eq!(host.render(&named("小明", "王")), host.impersonal);
        let greeting = Text::new(
            &content("{first_name} 您好，看 shop.tw 或 0912345678", "貴賓"),
            "EasyStore",
            "",
        );
        assert!(greeting.plain_names_add_nothing);
        assert_eq!(
            greeting.render(&named("小明", "王")),
            "EasyStore 小明 您好，看 shop.tw 或 0912345678"
        );
    }

    proptest! {
        #[test]
        fn no_name_adds_a_link_or_a_number(
            parts in prop::collection::vec(prop::sample::select(vec![
                "{first_name}", "{last_name}", "shop", ".", "。", "tw", "台灣", "09", "12", "345678", "-", " ", "，", "好", "/", "://", "台", "@",
            ]), 1..12),
            first in "[小明王台灣公司甲店分機]{1,3}", last in "([小明王商甲]{1,3}|tw|\\.tw|1|Amy)",
            fallback in prop::sample::select(vec!["貴賓", "某", "甲乙", "Amy"]),
        ) {
            let text = parts.concat();
            prop_assume!(!text.trim().is_empty());
            let text = Text::new(&content(&text, fallback), "EasyStore", "https://shop.example");
            let sent = text.render(&named(&first, &last));
            prop_assert!(Contacts::find(&sent).within(&text.contacts), "{sent:?} beside {:?}", text.impersonal);
        }
    }
}
