//! The advertisements a conversation came from: the ten latest distinct ones (pure), and keeping them.
//!
//! Why it exists: a shop wants to know which advertisement brought a customer, and customers click often.
//!
//! A plain link is no advertisement and marks nothing. What is kept never depends on the order in which clicks are told.

use std::{borrow::Cow, collections::BTreeMap};

use chrono::{DateTime, Utc};

use super::row::{moment, text};
use crate::{channel::webhook::Referral, db::Transaction};

/// How many distinct advertisements of a conversation are kept.
pub const ADS_KEPT: usize = 10;

/// An advertisement that led to a conversation. Ordered by when, so that the newest is the greatest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, sqlx::FromRow)]
pub struct Ad {
    /// When the customer last came from it.
    pub referred_at: DateTime<Utc>,
    /// The provider's id of it.
    pub ad_id: String,
    /// Its title then.
    pub title: Option<String>,
    /// Where it can be seen.
    pub url: Option<String>,
    /// What its link carried.
    pub reference: Option<String>,
}

/// Of everything seen the latest of each advertisement, newest first, at most [`ADS_KEPT`].
#[must_use]
pub fn latest(seen: impl IntoIterator<Item = Ad>) -> Vec<Ad> {
    let mut of_each: BTreeMap<String, Ad> = BTreeMap::new();
    for ad in seen {
        match of_each.get_mut(&ad.ad_id) {
            Some(known) if *known >= ad => {}
            Some(known) => *known = ad,
            None => {
                of_each.insert(ad.ad_id.clone(), ad);
            }
        }
    }
    let mut ads: Vec<Ad> = of_each.into_values().collect();
    ads.sort_unstable_by(|a, b| b.cmp(a));
    ads.truncate(ADS_KEPT);
    ads
}

/// Keeps what these events say, beside what is kept already. The conversations' rows are locked by the caller.
pub(super) async fn keep(
    tx: &mut Transaction,
    referred: &[(i64, DateTime<Utc>, &Referral)],
) -> Result<(), sqlx::Error> {
    let kept = |told: Option<&str>| text(told).map(Cow::into_owned);
    let mut of_conversation: BTreeMap<i64, Vec<Ad>> = BTreeMap::new();
    for (conversation, at, referral) in referred {
        if let Some(ad_id) = referral.ad_id.clone().filter(|id| !id.is_empty()) {
            of_conversation.entry(*conversation).or_default().push(Ad {
                referred_at: moment(*at),
                ad_id: kept(Some(&ad_id)).unwrap_or_default(),
                title: kept(referral.title.as_deref()),
                url: kept(referral.url.as_deref()),
                reference: kept(referral.reference.as_deref()),
            });
        }
    }
    if of_conversation.is_empty() {
        return Ok(());
    }
    let conversations: Vec<i64> = of_conversation.keys().copied().collect();
    let rows: Vec<KeptRow> = sqlx::query_as(
        "delete from referral where conversation_id = any ($1)
         returning conversation_id, referred_at, ad_id, title, url, reference",
    )
    .bind(&conversations)
    .fetch_all(&mut **tx)
    .await?;
    for (conversation, referred_at, ad_id, title, url, reference) in rows {
        of_conversation.entry(conversation).or_default().push(Ad {
            referred_at,
            ad_id,
            title,
            url,
            reference,
        });
    }
    for (conversation, ads) in of_conversation {
        for ad in latest(ads) {
            sqlx::query(
                "insert into referral (conversation_id, referred_at, ad_id, title, url, reference) values ($1, $2, $3, $4, $5, $6)",
            )
            .bind(conversation)
            .bind(ad.referred_at)
            .bind(ad.ad_id)
            .bind(ad.title)
            .bind(ad.url)
            .bind(ad.reference)
            .execute(&mut **tx)
            .await?;
        }
    }
    sqlx::query("update conversation set from_ad = true where id = any ($1) and not from_ad")
        .bind(&conversations)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A row of `referral`: conversation, when, advertisement, title, address, reference.
type KeptRow = (
    i64,
    DateTime<Utc>,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::*;

    fn ad(id: u8, at: i64) -> Ad {
        Ad {
            referred_at: DateTime::from_timestamp(at, 0).unwrap(),
            ad_id: format!("ad-{id:02}"),
            title: Some(format!("at {at}")),
            url: None,
            reference: None,
        }
    }

    #[test]
    fn the_eleventh_advertisement_pushes_out_the_one_seen_longest_ago() {
        let ads = latest((0..11).map(|n| ad(n, i64::from(n))));
        assert_eq!(ads.len(), ADS_KEPT);
        assert_eq!((ads[0].ad_id.as_str(), ads[9].ad_id.as_str()), ("ad-10", "ad-01"));
    }

    #[test]
    fn an_advertisement_seen_again_is_one_with_its_latest_title() {
        let ads = latest([ad(1, 5), ad(2, 6), ad(1, 9), ad(1, 7)]);
        assert_eq!(ads, [ad(1, 9), ad(2, 6)]);
    }

    proptest! {
        /// Clicks come in pieces, and each piece is merged with what was kept: the same as all of them at once.
        #[test]
        fn what_is_kept_does_not_depend_on_how_it_was_told(
            clicks in prop::collection::vec((0..20_u8, 0..30_i64), 0..60), cuts in prop::collection::vec(0..60_usize, 0..6), seed: u64,
        ) {
            let all: Vec<Ad> = clicks.iter().map(|(id, at)| ad(*id, *at)).collect();
            let mut told = all.clone();
            let mut state = seed;
            for place in (1..told.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                told.swap(place, usize::try_from(state >> 33).unwrap() % (place + 1));
            }
            let mut kept: Vec<Ad> = Vec::new();
            let mut rest = told.as_slice();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                kept = latest(kept.into_iter().chain(now.iter().cloned()));
                rest = later;
            }
            kept = latest(kept.into_iter().chain(rest.iter().cloned()));
            prop_assert_eq!(kept, latest(all));
        }
    }
}
