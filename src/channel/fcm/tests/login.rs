//! How often a token is fetched, and what a login that fails says about the push.

use futures::future::join_all;

use super::*;

#[tokio::test]
async fn many_pushes_at_once_fetch_one_token() {
    let server = answering(Reply::json("200 OK", "", SENT)).await;
    let client = Client::new(&server.url);
    let outcomes = join_all((0..40).map(|_| client.send("device"))).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, SendOutcome::Accepted { .. }))
    );
    let fetched = server
        .requests()
        .iter()
        .filter(|request| is_token_request(request))
        .count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn many_pushes_at_once_share_one_refused_login() {
    let server = Server::start(|_, _| Reply::json("400 Bad Request", "", r#"{"error":"invalid_grant"}"#)).await;
    let client = Client::new(&server.url);
    let outcomes = join_all((0..40).map(|_| client.send("device"))).await;
    let expected = refused(ErrorClass::Credentials, "oauth_invalid_grant");
    assert!(outcomes.iter().all(|outcome| *outcome == expected));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_token_that_runs_out_soon_is_replaced_early() {
    let server = Server::start(|count, request| {
        let life = if count == 0 { 0 } else { 3_599 };
        if is_token_request(request) {
            let body = format!(r#"{{"access_token":"t{count}","expires_in":{life}}}"#);
            Reply::json("200 OK", "", &body)
        } else {
            Reply::json("200 OK", "", SENT)
        }
    })
    .await;
    let client = Client::new(&server.url);
    for _ in 0..3 {
        client.send("device").await;
    }
    let requests = server.requests();
    let fetched: Vec<_> = requests.iter().map(|request| is_token_request(request)).collect();
    assert_eq!(fetched, [true, false, true, false, false]);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_the_push_sent_again() {
    let server = Server::start(|count, request| {
        if is_token_request(request) {
            let body = format!(r#"{{"access_token":"t{count}","expires_in":3599}}"#);
            Reply::json("200 OK", "", &body)
        } else if request.contains("Bearer t0") {
            Reply::json("401 Unauthorized", "", &error("UNAUTHENTICATED", None, "expired"))
        } else {
            Reply::json("200 OK", "", SENT)
        }
    })
    .await;
    let client = Client::new(&server.url);
    assert!(matches!(client.send("device").await, SendOutcome::Accepted { .. }));
    assert_eq!(server.requests().len(), 4);

    let server = answering(Reply::json("401 Unauthorized", "", &error("UNAUTHENTICATED", None, ""))).await;
    let outcome = Client::new(&server.url).send("device").await;
    assert_eq!(outcome, refused(ErrorClass::Credentials, "401 UNAUTHENTICATED"));
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_login_that_fails_means_the_push_was_not_sent() {
    use ErrorClass::{Credentials, Throttled, Unreachable};
    for (reply, class, code) in [
        (
            Reply::json("401 Unauthorized", "", r#"{"error":"invalid_client"}"#),
            Credentials,
            "oauth_invalid_client",
        ),
        (
            Reply::json("400 Bad Request", "", "<html>"),
            Unreachable,
            "oauth_not_as_promised",
        ),
        (Reply::json("200 OK", "", "{}"), Unreachable, "oauth_not_as_promised"),
        (Reply::json("429 Too Many", "", "{}"), Throttled, "oauth_429"),
        (Reply::json("500 Oops", "", "{}"), Unreachable, "oauth_500"),
        (Reply::Reset, Unreachable, "oauth_connection_lost"),
        (Reply::Hang, Unreachable, "oauth_timeout"),
    ] {
        let server = Server::start(move |_, _| reply.clone()).await;
        let outcome = Client::new(&server.url).send("device").await;
        assert_eq!(outcome, refused(class, code));
        assert_eq!(server.requests().len(), 1);
    }
}
