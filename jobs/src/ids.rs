//! Identifiers as types, so that a shop id can never be handed over where a broadcast id is meant.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const UUID_PATTERN: &str = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        #[schemars(extend("pattern" = UUID_PATTERN))]
        pub struct $name(
            // In the one form that the schema describes: braces, `urn:` and a bare row of digits are refused.
            #[serde(with = "uuid::serde::hyphenated")]
            #[schemars(with = "Uuid")]
            pub Uuid,
        );

        impl $name {
            /// A new id that sorts by the time it was made (UUIDv7).
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    };
}

uuid_id! {
    /// A merchant, our tenant.
    ShopId
}
uuid_id! {
    /// An account on a channel, of a shop or of the platform.
    SenderId
}
uuid_id! {
    /// One message to an audience. A UUIDv7: the tables of its deliveries are partitioned by it.
    BroadcastId
}
uuid_id! {
    /// An order of extra tokens.
    TopUpId
}
uuid_id! {
    /// One request of a provider, stored as it came. A UUIDv7: its table is partitioned by it.
    WebhookId
}
number_id! {
    /// A person known to one shop.
    CustomerId
}
number_id! {
    /// One customer's identity on one sender.
    AddressId
}
