//! The seam behind which the money is taken: whatever a provider reports, in any order, leads to one credit or none.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use carillon::top_up::{self, Order, Payment, PaymentError, PaymentGateway, TopUpError, TopUpState};

use crate::{
    fixture_db::database,
    scene::{assert_clean, one, shop},
    top_up_scene::{RULES, credits, long_ago, requested, states},
};

/// A payment provider that answers what it was told to.
#[derive(Clone)]
struct Provider(Arc<Mutex<VecDeque<Result<Payment, PaymentError>>>>);

impl Provider {
    fn new(answers: impl IntoIterator<Item = Result<Payment, PaymentError>>) -> Self {
        Self(Arc::new(Mutex::new(answers.into_iter().collect())))
    }
}

impl PaymentGateway for Provider {
    fn name(&self) -> &'static str {
        "provider"
    }

    async fn charge(&self, _order: &Order) -> Result<Payment, PaymentError> {
        self.0.lock().unwrap().pop_front().unwrap()
    }
}

fn payment(reference: &str, paid_twd: i64) -> Payment {
    Payment {
        reference: reference.to_owned(),
        charged_at: Some(long_ago()),
        paid_twd,
    }
}

#[tokio::test]
async fn reports_of_a_payment_provider_lead_to_one_credit_in_any_order() {
    let db = database().await;
    let shop = shop(&db.pool, 0, 0).await;
    let declined = || Err(PaymentError::Declined("card expired".to_owned()));
    let orders: [Vec<Result<Payment, PaymentError>>; 3] = [
        // Declined first, then paid; the report of the first try comes late; doubt in between.
        vec![
            declined(),
            Err(PaymentError::Uncertain("timeout".to_owned())),
            Ok(payment("P-0", 799)),
        ],
        vec![Ok(payment("P-1", 799)), declined(), Ok(payment("P-1", 799))],
        vec![
            Err(PaymentError::Uncertain("timeout".to_owned())),
            Ok(payment("P-2", 799)),
            declined(),
            Ok(payment("P-2", 799)),
        ],
    ];
    for (n, answers) in orders.into_iter().enumerate() {
        let id = requested(&db.pool, shop.id, 1).await;
        let provider = Provider::new(answers.clone());
        for answer in answers {
            let result = top_up::charge(&db.pool, &RULES, &provider, id).await;
            match answer {
                Ok(_) => assert_eq!(result.unwrap().order.state, TopUpState::Charged),
                Err(PaymentError::Uncertain(_)) => {
                    assert!(matches!(result, Err(TopUpError::Uncertain(_))), "{result:?}");
                }
                Err(PaymentError::Declined(_)) => assert!(
                    matches!(
                        result,
                        Err(TopUpError::Declined(_)
                            | TopUpError::WrongState {
                                state: TopUpState::Charged,
                                ..
                            })
                    ),
                    "{result:?}"
                ),
            }
        }
        assert!(top_up::settle(&db.pool, id).await.unwrap().changed, "{n}");
        assert_eq!(credits(&db.pool, id).await, (1, 12_500), "{n}");
    }
    // Another sum than the price is no payment of this order.
    let id = requested(&db.pool, shop.id, 1).await;
    let result = top_up::charge(&db.pool, &RULES, &Provider::new([Ok(payment("P-9", 798))]), id).await;
    assert!(
        matches!(
            result,
            Err(TopUpError::Amount {
                paid_twd: 798,
                price_twd: 799
            })
        ),
        "{result:?}"
    );
    assert_eq!(states(&db.pool, id).await, ["requested"]);
    let operators: i64 = one(&db.pool, "select count(*) from operator_action").await;
    assert_eq!(operators, 0, "no operator did any of this");
    assert_clean(&db.pool).await;
}
