//! Whoever takes the money for an order: the seam, and the first adapter behind it.
//!
//! Why it exists: today a person charges the shop's card elsewhere and says so here; tomorrow a payment provider is asked.
//! Nothing else in this module knows which.
//!
//! It must never be asked while a transaction is open, and an adapter must never take the money for one order twice.

use chrono::{DateTime, Utc};

use super::Order;

/// A payment that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// What whoever took it calls it; no two payments share one. Never a card number or a person's name.
    pub reference: String,
    /// When it was taken; none for now. It decides when the tokens are due, however late the report comes.
    pub charged_at: Option<DateTime<Utc>>,
    /// How much was taken; another sum than the order's price is refused.
    pub paid_twd: i64,
}

/// Why there is no payment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    /// Refused, and nothing was taken. No personal data in the text.
    #[error("declined: {0}")]
    Declined(String),
    /// It may have been taken, or not.
    #[error("uncertain: {0}")]
    Uncertain(String),
}

/// Takes the money for orders.
pub trait PaymentGateway: Sync {
    /// Its name on the order.
    fn name(&self) -> &str;

    /// The person on whose word the payment stands; none where a program has asked the provider.
    fn operator(&self) -> Option<&str> {
        None
    }

    /// Takes the order's price, or finds that it was taken before. It is asked again after every crash and doubt, also about
    /// an order that was charged, given back or failed since: it answers with the same payment, under a key that is the
    /// order's id.
    fn charge(&self, order: &Order) -> impl Future<Output = Result<Payment, PaymentError>> + Send;
}

/// A person who has charged the shop's bound payment method elsewhere, and says so.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Their name.
    pub by: String,
    /// The payment's reference where they took it.
    pub reference: String,
    /// When they took it; none for now.
    pub charged_at: Option<DateTime<Utc>>,
}

impl PaymentGateway for Operator {
    fn name(&self) -> &'static str {
        "operator"
    }

    fn operator(&self) -> Option<&str> {
        Some(&self.by)
    }

    async fn charge(&self, order: &Order) -> Result<Payment, PaymentError> {
        Ok(Payment {
            reference: self.reference.clone(),
            charged_at: self.charged_at,
            paid_twd: order.price_twd,
        })
    }
}
