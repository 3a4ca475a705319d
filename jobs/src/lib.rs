//! j

mod ids;

pub use ids::{AddressId, BroadcastId, CustomerId, SenderId, ShopId};
