//! Objects in a bucket: put and delete, signed (AWS Signature Version 4).
//!
//! Why it exists: two requests are all that is needed, and the crates that offer them bring a second TLS stack.
//!
//! It must never show its key, and never sign anything but what it sends.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use reqwest::{Client, Method, StatusCode};
use ring::{digest, hmac};
use url::Url;

use super::{MediaConfig, StoreError};

/// A bucket and what opens it.
#[derive(Clone)]
pub(super) struct Bucket {
    http: Client,
    /// Scheme, host and bucket, with a slash at the end.
    base: Url,
    region: String,
    access_key: String,
    secret_key: crate::secret::Hidden,
}

impl Bucket {
    pub(super) fn new(http: Client, config: &MediaConfig) -> Result<Self, StoreError> {
        let endpoint = config.s3_endpoint_url.trim_end_matches('/');
        Ok(Self {
            http,
            base: Url::parse(&format!("{endpoint}/{}/", config.s3_bucket)).map_err(|_| StoreError::Address)?,
            region: config.s3_region.clone(),
            access_key: config.s3_access_key.clone(),
            secret_key: config.s3_secret_key.clone(),
        })
    }

    pub(super) async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.ask(Method::PUT, name, bytes).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.ask(Method::DELETE, name, Vec::new()).await
    }

    async fn ask(&self, method: Method, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let url = self.base.join(name).map_err(|_| StoreError::Address)?;
        let sum = hex(digest::digest(&digest::SHA256, &bytes).as_ref());
        // The service knows when it was asked only by this: there is no other clock in the request.
        let now = Utc::now();
        let authorization = self.signature(&method, &url, &sum, now);
        let request = self
            .http
            .request(method.clone(), url)
            .header("x-amz-date", stamp(now))
            .header("x-amz-content-sha256", sum)
            .header("authorization", authorization)
            .body(bytes);
        let answer = request.send().await.map_err(|_| StoreError::Unreachable)?;
        let status = answer.status();
        // What is not there is deleted.
        if status.is_success() || (method == Method::DELETE && status == StatusCode::NOT_FOUND) {
            return Ok(());
        }
        Err(StoreError::Refused(status.as_u16()))
    }

    fn signature(&self, method: &Method, url: &Url, sum: &str, now: DateTime<Utc>) -> String {
        let host = match (url.host_str().unwrap_or_default(), url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let headers = [
            ("host", host),
            ("x-amz-content-sha256", sum.to_owned()),
            ("x-amz-date", stamp(now)),
        ];
        sign(
            &Signing {
                access_key: &self.access_key,
                secret_key: self.secret_key.expose(),
                region: &self.region,
                now,
            },
            method.as_str(),
            url.path(),
            &headers,
            sum,
        )
    }
}

struct Signing<'a> {
    access_key: &'a str,
    secret_key: &'a str,
    region: &'a str,
    now: DateTime<Utc>,
}

/// The `authorization` header; `headers` in the order of their names, in small letters.
fn sign(by: &Signing<'_>, method: &str, path: &str, headers: &[(&str, String)], sum: &str) -> String {
    let mut lines = String::new();
    for (name, value) in headers {
        let _ = writeln!(lines, "{name}:{value}");
    }
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let request = format!("{method}\n{path}\n\n{lines}\n{names}\n{sum}");
    let day = by.now.format("%Y%m%d").to_string();
    let scope = format!("{day}/{}/s3/aws4_request", by.region);
    let request_sum = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{request_sum}", stamp(by.now));
    let mut key = format!("AWS4{}", by.secret_key).into_bytes();
    for part in [day.as_str(), by.region, "s3", "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &text));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
        by.access_key
    )
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn stamp(now: DateTime<Utc>) -> String {
    now.format("%Y%m%dT%H%M%SZ").to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The examples of the documentation, "Authenticating Requests: Using the Authorization Header".
    fn example() -> Signing<'static> {
        Signing {
            access_key: "AKIAIOSFODNN7EXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            now: "2013-05-24T00:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_put_is_signed_as_the_documentation_signs_it() {
        let sum = hex(digest::digest(&digest::SHA256, b"Welcome to Amazon S3.").as_ref());
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT".to_owned()),
            ("host", "examplebucket.s3.amazonaws.com".to_owned()),
            ("x-amz-content-sha256", sum.clone()),
            ("x-amz-date", "20130524T000000Z".to_owned()),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY".to_owned()),
        ];
        let header = sign(&example(), "PUT", "/test%24file.text", &headers, &sum);
        assert!(
            header.ends_with("Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
            "{header}"
        );
    }
}
