//! Addresses that are closed and opened by what persons and providers say, in whatever order they say it.

use carillon::channel::{
    ErrorClass,
    webhook::{Receipt, ReceiptOf, ReceiptState, WebhookEvent, What},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    fixture_db::database,
    receipt_scene::{apply, at, event, mark, marked, sender, shop, stands},
    scene::{LINE, Shop, assert_clean, one, run, send_rest},
};

/// An address: `state reason`.
async fn address(shop: &Shop, address: &str) -> String {
    let sql = format!(
        "select concat_ws(' ', state, state_reason) from address where shop_id = '{}' and address = '{address}'",
        shop.id
    );
    one(&shop.pool, &sql).await
}

fn dead(code: &str) -> ReceiptState {
    ReceiptState::Failed {
        class: ErrorClass::Recipient,
        code: code.to_owned(),
        closes_address: true,
    }
}

fn says(from: &str, what: What, secs: i64) -> WebhookEvent {
    at(event(Some(from), what), secs)
}

#[tokio::test]
async fn who_leaves_is_closed_and_who_follows_later_is_open_again() {
    let db = database().await;
    let tea = shop(&db.pool, 2).await;
    let line = sender(&tea, "line").await;
    let who = format!("line{}", tea.customers[0]);
    apply(&db.pool, line, &[says(&who, What::Unfollowed, 20)]).await;
    assert_eq!(address(&tea, &who).await, "suppressed unfollowed");
    apply(&db.pool, line, &[says(&who, What::Followed, 10)]).await;
    assert_eq!(
        address(&tea, &who).await,
        "suppressed unfollowed",
        "an older follow that came late"
    );
    apply(&db.pool, line, &[says(&who, What::Followed, 30)]).await;
    assert_eq!(address(&tea, &who).await, "active");
    apply(&db.pool, line, &[says(&who, What::Unfollowed, 20)]).await;
    assert_eq!(address(&tea, &who).await, "active", "told again");
    assert_eq!(address(&tea, &format!("line{}", tea.customers[1])).await, "active");
}

#[tokio::test]
async fn a_stop_is_undone_by_a_start_and_nothing_else_and_undoes_no_opt_out() {
    let db = database().await;
    let tea = shop(&db.pool, 1).await;
    let line = sender(&tea, "line").await;
    let who = format!("line{}", tea.customers[0]);
    let want = |wanted, secs| says(&who, What::Consent { wanted }, secs);
    apply(&db.pool, line, &[want(false, 10)]).await;
    assert_eq!(address(&tea, &who).await, "opted_out stop");
    apply(&db.pool, line, &[says(&who, What::Followed, 99)]).await;
    assert_eq!(address(&tea, &who).await, "opted_out stop");
    apply(&db.pool, line, &[want(true, 20)]).await;
    assert_eq!(address(&tea, &who).await, "active");
    // Both: the STOP is taken back, and the person has left all the same.
    apply(&db.pool, line, &[want(false, 30), says(&who, What::Unfollowed, 100)]).await;
    assert_eq!(address(&tea, &who).await, "opted_out stop");
    apply(&db.pool, line, &[want(true, 40)]).await;
    assert_eq!(address(&tea, &who).await, "suppressed unfollowed");
    // The link in a mail says no for good, also where a STOP said it before.
    apply(&db.pool, line, &[want(false, 50)]).await;
    let id: i64 = one(&db.pool, &format!("select id from address where address = '{who}'")).await;
    run(
        &db.pool,
        &format!("select close_address({id}, 'opted_out', 'one_click')"),
    )
    .await;
    apply(&db.pool, line, &[want(true, 60), says(&who, What::Followed, 200)]).await;
    assert_eq!(address(&tea, &who).await, "opted_out one_click");
}

#[tokio::test]
async fn a_dead_address_is_closed_for_everybody_who_has_it_and_a_follow_proves_otherwise() {
    let db = database().await;
    let tea = shop(&db.pool, 3).await;
    let id = tea.opened(&[LINE], 10).await;
    send_rest(&db.pool, id, "line").await;
    let line = sender(&tea, "line").await;
    let [a, b, c] = tea.customers[..] else { panic!() };
    // b comes to have a's address too.
    run(&db.pool, &format!("select put_address('{line}', {b}, 'line{a}')")).await;
    apply(&db.pool, line, &[marked(mark(id, a), dead("131026"))]).await;
    let closed = format!(
        "select array_agg(customer_id order by customer_id) from address where address = 'line{a}' and state = 'suppressed'"
    );
    assert_eq!(one::<Vec<i64>>(&db.pool, &closed).await, [a, b]);
    let current =
        format!("select address from address where customer_id = {b} and sender_id = '{line}' and is_current");
    assert_eq!(
        one::<String>(&db.pool, &current).await,
        format!("line{b}"),
        "the other one takes its place"
    );
    apply(&db.pool, line, &[event(Some(&format!("line{a}")), What::Followed)]).await;
    assert_eq!(
        one::<i64>(
            &db.pool,
            &format!("select count(*) from address where address = 'line{a}' and state = 'active'")
        )
        .await,
        2
    );
    // A report that names only the mailbox.
    let of = ReceiptOf::Message {
        provider_id: None,
        mark: None,
    };
    let report = event(
        Some(&format!("line{c}")),
        What::Receipt(Receipt {
            of,
            state: dead("5.1.1"),
        }),
    );
    apply(&db.pool, line, &[report]).await;
    assert_eq!(address(&tea, &format!("line{c}")).await, "suppressed 5.1.1");
    assert_clean(&db.pool).await;
}

#[tokio::test]
async fn who_left_before_being_known_is_closed_when_the_address_is_there_and_forgotten_with_it() {
    let db = database().await;
    let tea = shop(&db.pool, 1).await;
    let line = sender(&tea, "line").await;
    apply(
        &db.pool,
        line,
        &[says("U1", What::Unfollowed, 20), says("U1\0", What::Unfollowed, 20)],
    )
    .await;
    run(
        &db.pool,
        &format!("select put_address('{line}', {}, 'U1')", tea.customers[0]),
    )
    .await;
    apply(&db.pool, line, &[says("U1", What::Followed, 10)]).await;
    assert_eq!(address(&tea, "U1").await, "suppressed unfollowed");
    run(
        &db.pool,
        &format!("delete from customer where id = {}", tea.customers[0]),
    )
    .await;
    assert_eq!(one::<i64>(&db.pool, "select count(*) from address_standing").await, 0);
}

#[tokio::test]
async fn who_calls_a_mail_spam_has_it_and_gets_no_more() {
    let db = database().await;
    let tea = shop(&db.pool, 2).await;
    let id = tea.opened(&[LINE], 10).await;
    send_rest(&db.pool, id, "line").await;
    let who = tea.customers[0];
    let spam = event(None, What::Complained { mark: mark(id, who) });
    // Not over this sender: then it is somebody else's word.
    apply(&db.pool, sender(&tea, "app").await, std::slice::from_ref(&spam)).await;
    assert_eq!(address(&tea, &format!("line{who}")).await, "active");
    let line = sender(&tea, "line").await;
    apply(
        &db.pool,
        line,
        &[spam, says(&format!("line{who}"), What::Followed, 99_000_000)],
    )
    .await;
    assert_eq!(address(&tea, &format!("line{who}")).await, "opted_out complaint");
    assert_eq!(stands(&db.pool, id, "line", who).await, "delivered 5");
    assert_clean(&db.pool).await;
}

/// A shop front tells of its customers by its own ids, which are no address: what they want counts for all their channels.
#[tokio::test]
async fn who_tells_the_shop_front_no_more_gets_no_more_and_each_word_counts_once() {
    let db = database().await;
    let tea = shop(&db.pool, 2).await;
    let front = sender(&tea, "app").await;
    let who = tea.customers[0];
    run(
        &db.pool,
        &format!(
            "update customer set external_id = 'C-' || id where shop_id = '{}'",
            tea.id
        ),
    )
    .await;
    let id = format!("C-{who}");
    let want = |wanted, secs| says(&id, What::Consent { wanted }, secs);
    let out = async || -> Vec<i64> {
        let sql = "select coalesce(array_agg(id order by id), '{}') from customer where opted_out";
        one(&db.pool, sql).await
    };
    apply(&db.pool, front, &[want(false, 20)]).await;
    assert_eq!(out().await, [who]);
    apply(&db.pool, front, &[want(true, 10)]).await;
    assert_eq!(out().await, [who], "an older word that came late");
    // Somebody changed it elsewhere: hearing the same again, or of something else, does not undo that.
    run(&db.pool, "update customer set opted_out = false").await;
    apply(&db.pool, front, &[want(false, 20), says(&id, What::Followed, 50)]).await;
    assert_eq!(out().await, Vec::<i64>::new());
    apply(&db.pool, front, &[want(false, 30)]).await;
    assert_eq!(out().await, [who]);
    apply(&db.pool, front, &[want(true, 40)]).await;
    assert_eq!(out().await, Vec::<i64>::new());
    run(&db.pool, &format!("select erase_customer({who})")).await;
    let left: i64 = one(&db.pool, "select count(*) from address_standing").await;
    assert_eq!(left, 0, "what the front told goes with the customer");
}

/// The latest word counts, whatever the order and the batches it is heard in.
#[test]
fn any_order_of_comings_and_goings_ends_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let db = runtime.block_on(database());
    let said = prop_oneof![
        Just(What::Followed),
        Just(What::Unfollowed),
        any::<bool>().prop_map(|wanted| What::Consent { wanted }),
    ];
    let events = prop::collection::vec((said, 0..4i64), 1..8).prop_flat_map(|events| {
        let again = events.get(..events.len() / 2).unwrap_or_default().to_vec();
        let order = Just([events.clone(), again].concat()).prop_shuffle();
        (Just(events), order, 1..5usize)
    });
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&events, |(events, order, batch)| {
            // The latest; of two at one moment the one that says no.
            let last = |of: &dyn Fn(&What) -> Option<bool>| {
                let heard = events.iter().filter_map(|(what, at)| Some((*at, !of(what)?)));
                heard.max().map(|(_, no)| !no)
            };
            let follows = last(&|what| match what {
                What::Followed => Some(true),
                What::Unfollowed => Some(false),
                _ => None,
            });
            let wanted = last(&|what| {
                if let What::Consent { wanted } = what {
                    Some(*wanted)
                } else {
                    None
                }
            });
            let expected = match (wanted, follows) {
                (Some(false), _) => "opted_out stop",
                (_, Some(false)) => "suppressed unfollowed",
                _ => "active",
            };
            let stands = runtime.block_on(async {
                let tea = shop(&db.pool, 1).await;
                let line = sender(&tea, "line").await;
                let who = format!("line{}", tea.customers[0]);
                for part in order.chunks(batch) {
                    let events: Vec<WebhookEvent> =
                        part.iter().map(|(what, at)| says(&who, what.clone(), *at)).collect();
                    apply(&db.pool, line, &events).await;
                }
                address(&tea, &who).await
            });
            prop_assert_eq!(stands, expected);
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_stop_a_failure_and_a_start_end_the_same_in_every_order() {
    let db = database().await;
    let tea = shop(&db.pool, 6).await;
    let line = sender(&tea, "line").await;
    for (customer, order) in
        tea.customers
            .iter()
            .zip([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    {
        let who = format!("line{customer}");
        let of = ReceiptOf::Message {
            provider_id: None,
            mark: None,
        };
        let told = [
            says(&who, What::Consent { wanted: false }, 10),
            says(
                &who,
                What::Receipt(Receipt {
                    of,
                    state: dead("30003"),
                }),
                20,
            ),
            says(&who, What::Consent { wanted: true }, 30),
        ];
        for which in order {
            apply(&db.pool, line, &[told[which].clone()]).await;
        }
        assert_eq!(address(&tea, &who).await, "suppressed 30003", "{order:?}");
    }
}

#[tokio::test]
async fn what_a_person_opens_again_is_not_closed_by_the_old_word() {
    let db = database().await;
    let tea = shop(&db.pool, 1).await;
    let line = sender(&tea, "line").await;
    let who = format!("line{}", tea.customers[0]);
    let want = |wanted, secs| says(&who, What::Consent { wanted }, secs);
    apply(&db.pool, line, &[want(false, 10)]).await;
    assert_eq!(address(&tea, &who).await, "opted_out stop");
    run(&db.pool, "update address set state = 'active', state_reason = null").await;
    apply(&db.pool, line, &[says(&who, What::Unknown("heard of".to_owned()), 20)]).await;
    apply(&db.pool, line, &[want(false, 10)]).await;
    assert_eq!(address(&tea, &who).await, "active", "the same word again");
    apply(&db.pool, line, &[want(false, 30)]).await;
    assert_eq!(address(&tea, &who).await, "opted_out stop", "a new word");
}
