//! placeholder, replaced by the next commit
use super::{
    config::EmailConfig,
    outcome::{ErrorClass, Refusal, SendOutcome},
    sender::EmailAccount,
};
use carillon_jobs::SenderId;
#[derive(Debug)]
pub(super) struct Email;
impl Email {
    pub(super) fn new(_: EmailConfig) -> Self {
        Self
    }
    pub(super) async fn send(
        &self,
        _: SenderId,
        _: &EmailAccount,
        _: &str,
        _: &[u8],
    ) -> SendOutcome {
        Refusal::new(ErrorClass::Unreachable, "not_yet").into()
    }
}
