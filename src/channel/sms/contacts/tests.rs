//! Links and numbers as people write them, what is neither, and what is registered.

use proptest::prelude::*;

use super::*;

fn links_of(text: &str) -> Vec<String> {
    Contacts::find(text).links
}

#[test]
fn links_are_found_however_they_are_written() {
    for (text, link) in [
        ("https://shop.example/sale?x=1", "shop.example/sale"),
        ("看 HTTP://Shop.Example/Sale。", "shop.example/sale"),
        ("請看shop.tw謝謝", "shop.tw"),
        ("ｈｔｔｐｓ：／／ｓｈｏｐ．ｔｗ／ａ", "shop.tw/a"),
        ("sho\u{200b}p.tw", "shop.tw"),
        ("line.me/ti/p/abc", "line.me/ti/p/abc"),
        ("(bit.ly/3xY)", "bit.ly/3xy"),
        ("https://shop.example@evil.tw/x", "evil.tw/x"),
        ("https://shop.example/sale/../x", "shop.example/x"),
        ("http://192.0.2.7/x", "192.0.2.7/x"),
        ("192.0.2.7", "192.0.2.7"),
        ("line://msg", "msg"),
        ("me@shop.tw", "shop.tw"),
        ("www.shop.tw:8080/a,", "www.shop.tw/a"),
        ("https://xn--fiq228c.tw/", "xn--fiq228c.tw"),
        ("小店.tw", "xn--nmqw48a.tw"),
        ("shop。tw", "shop.tw"),
        ("ｓｈｏｐ．ｔｗ", "shop.tw"),
        ("shop.台灣", "shop.xn--kpry57d"),
        ("SHOP．台灣立即購買", "shop.xn--kpry57d"),
        ("https://shop.台湾/a?b", "shop.xn--kprw13d/a"),
        ("看 www.shop.香港:8080/a。", "www.shop.xn--j6w193g/a"),
        ("shop.臺灣", "shop.xn--nnx388a"),
        ("請看 shop.食品，有好康", "shop.xn--jvr189m"),
        ("https://shop.政府/a", "shop.xn--mxtq1m/a"),
        ("shop.クラウドで", "shop.xn--gckr3f0f"),
        ("shop.рф", "shop.xn--p1ai"),
        ("小店.台灣", ""),
        ("https://www.小店.商店/x", ""),
    ] {
        assert_eq!(links_of(text).len(), 1, "{text}: {:?}", links_of(text));
        if !text.contains("小店") {
            assert_eq!(links_of(text), [link], "{text}");
        }
    }
    assert_eq!(links_of("a.tw b.tw/x a.tw"), ["a.tw", "b.tw/x"]);
}

#[test]
fn what_is_no_link_is_none() {
    for text in [
        "全館八折。VIP 再享",
        "滿 1,000 折 3.5kg",
        "11/11 08:00",
        "No.1",
        "a.m. p.m.",
        "2026.11.30",
        "...",
        "只要 $9.99!",
        "。。。",
        "版本 1.2.3",
        "優惠.台北門市",
        "全新上市。台灣製造",
        "全新上市。臺灣製造",
        "買一送一.快",
    ] {
        assert_eq!(links_of(text), [] as [&str; 0], "{text}");
    }
}

#[test]
fn phones_and_service_numbers_are_found() {
    for (text, number) in [
        ("電洽0912-345-678", "+886912345678"),
        ("(02)2345-6789", "+886223456789"),
        ("０８００－１２３－４５６", "0800123456"),
        ("0800 123 456", "0800123456"),
        ("0204-12345-6", "0204123456"),
        ("070-1234-5678", "07012345678"),
        ("0800123456+1", "0800123456"),
        ("+852 1234 5678", "+85212345678"),
    ] {
        assert_eq!(Contacts::find(text).phones, [number], "{text}");
    }
    for text in ["訂單 20261122-0007", "2026-11-22", "08:00", "0800"] {
        assert_eq!(Contacts::find(text).phones, [] as [&str; 0], "{text}");
    }
}

#[test]
fn a_registered_prefix_covers_what_is_below_it_and_nothing_beside_it() {
    let registered = Registered(Contacts {
        links: vec!["shop.example/sale".into(), "shop.tw".into()],
        phones: vec!["+886912345678".into()],
    });
    let missing = |text: &str| registered.missing(&Contacts::find(text));
    for text in [
        "https://shop.example/sale",
        "shop.example/sale/",
        "shop.example/sale/a?b#c",
        "shop.tw",
        "https://shop.tw/anything",
        "0912-345-678",
    ] {
        assert!(missing(text).is_empty(), "{text}: {:?}", missing(text));
    }
    for text in [
        "shop.example",
        "shop.example/sales",
        "www.shop.example/sale",
        "shop.tw.evil.com",
        "evil-shop.tw",
        "https://shop.tw@evil.com",
        "shop.tww",
        "0912-345-679",
        "shop.example/sale/../x",
    ] {
        assert!(!missing(text).is_empty(), "{text}");
    }
}

#[test]
fn one_link_or_one_number_can_be_registered_and_nothing_else() {
    assert_eq!(
        Contacts::only("https://shop.tw/a/").map(|c| c.links),
        Some(vec!["shop.tw/a".to_owned()])
    );
    assert_eq!(
        Contacts::only(" 0912 345 678 ").map(|c| c.phones),
        Some(vec!["+886912345678".to_owned()])
    );
    for text in ["", "shop", "a.tw b.tw", "see a.tw", "a.tw 0912345678"] {
        assert_eq!(Contacts::only(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_looked_through(text in "\\PC{0,200}") {
        let _ = Contacts::find(&text);
    }

    #[test]
    fn a_link_is_found_whatever_stands_around_it(before in "[ 一-龥，。!]{0,12}", after in "[ 一-龥，。!]{0,12}") {
        let found = Contacts::find(&format!("{before}https://shop.example/a{after}"));
        prop_assert!(found.links.contains(&"shop.example/a".to_owned()), "{:?}", found);
    }

    #[test]
    fn what_one_text_carries_two_texts_carry(a in "[a-z0-9./: -]{0,40}", b in "[a-z0-9./: -]{0,40}") {
        // Apart by a line break, neither hides what is in the other.
        let both = Contacts::find(&format!("{a}\n{b}"));
        prop_assert!(Contacts::find(&a).within(&both), "{a:?} {b:?}");
    }
}
