//! The two limit scripts against their model in Rust, step by step on a real Redis.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::float_cmp)]

use carillon::limit::{
    PerSecond,
    bucket::{Bucket, Rules},
};
use carillon_jobs::SenderId;
use proptest::{prelude::*, test_runner::TestRunner};
use redis::Script;

use crate::limit::{config, redis_url};

type Hash = (
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
);
const FIELDS: [&str; 6] = [
    "spent_until",
    "rate",
    "closed_until",
    "slowed_at",
    "raised_at",
    "throttled_at",
];

#[derive(Debug, Clone)]
enum Step {
    Lease { wanted: u32, clean: bool },
    Throttle { close_us: u32 },
    Pass { us: u64 },
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u32..500, any::<bool>()).prop_map(|(wanted, clean)| Step::Lease { wanted, clean }),
        2 => (0u32..5_000_000).prop_map(|close_us| Step::Throttle { close_us }),
        3 => (0u64..100_000).prop_map(|us| Step::Pass { us }),
        3 => (0u64..20_000_000).prop_map(|us| Step::Pass { us }),
        1 => Just(Step::Forget),
    ]
}

/// The bucket in Redis and its model side by side. Time passes by moving every moment of both into the past.
struct Twins {
    conn: redis::Connection,
    lease: Script,
    throttle: Script,
    key: String,
    rules: Rules,
    model: Bucket,
}

impl Twins {
    fn stored(&mut self) -> Bucket {
        let hash: Hash = redis::cmd("HMGET")
            .arg(&self.key)
            .arg(&FIELDS)
            .query(&mut self.conn)
            .unwrap();
        Bucket {
            spent_until_us: hash.0,
            rate_per_sec: hash.1,
            closed_until_us: hash.2.unwrap_or(0.0),
            slowed_at_us: hash.3.unwrap_or(0.0),
            raised_at_us: hash.4.unwrap_or(0.0),
            throttled_at_us: hash.5.unwrap_or(0.0),
        }
    }

    fn pass(&mut self, us: u64) {
        for field in FIELDS.iter().filter(|field| **field != "rate") {
            if redis::cmd("HEXISTS")
                .arg(&self.key)
                .arg(field)
                .query(&mut self.conn)
                .unwrap()
            {
                let us = i64::try_from(us).unwrap();
                redis::cmd("HINCRBY")
                    .arg(&self.key)
                    .arg(field)
                    .arg(-us)
                    .exec(&mut self.conn)
                    .unwrap();
            }
        }
        self.model = self.stored();
    }

    fn lease(&mut self, wanted: u32, clean: bool) {
        let mut call = self.lease.key(&self.key);
        let rules = &self.rules;
        call.arg(wanted)
            .arg(rules.configured_per_sec)
            .arg(rules.burst_us)
            .arg(rules.ahead_us)
            .arg(u8::from(clean));
        call.arg(rules.hold_us)
            .arg(rules.raise)
            .arg(rules.max_close_us)
            .arg(60_000);
        let (permits, last_in, wait, rate, now): (u32, u32, u64, f64, u64) = call.invoke(&mut self.conn).unwrap();
        let said = self.model.lease(rules, now as f64, wanted.into(), clean);
        assert_eq!(
            (f64::from(permits), f64::from(last_in)),
            (said.permits, said.last_in_us)
        );
        assert_eq!((wait as f64, rate), (said.wait_us, said.rate_per_sec));
    }

    fn throttle(&mut self, close_us: u32) {
        let mut call = self.throttle.key(&self.key);
        let rules = &self.rules;
        call.arg(rules.configured_per_sec)
            .arg(close_us)
            .arg(rules.hold_us)
            .arg(rules.max_close_us)
            .arg(60_000);
        let (closed, rate, now): (u64, f64, u64) = call.invoke(&mut self.conn).unwrap();
        self.model.throttle(rules, now as f64, close_us.into());
        assert_eq!(closed as f64, self.model.closed_until_us - now as f64);
        assert_eq!(rate, self.model.effective_per_sec(rules));
    }
}

#[test]
fn the_scripts_do_what_the_model_says() {
    let client = redis::Client::open(redis_url()).unwrap();
    let strategy = (
        prop_oneof![0.5..50.0f64, 50.0..1e6f64],
        prop::collection::vec(step(), 1..40),
    );
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..Default::default()
    });
    let checked = runner.run(&strategy, |(rate, steps)| {
        let mut twins = Twins {
            conn: client.get_connection().unwrap(),
            lease: Script::new(include_str!("../../src/limit/lease.lua")),
            throttle: Script::new(include_str!("../../src/limit/throttle.lua")),
            key: format!("{{{}}}:limit", SenderId::new()),
            rules: Rules::new(&config(), PerSecond::try_from(rate).unwrap()),
            model: Bucket::default(),
        };
        for step in steps {
            match step {
                Step::Lease { wanted, clean } => twins.lease(wanted, clean),
                Step::Throttle { close_us } => twins.throttle(close_us),
                Step::Pass { us } => twins.pass(us),
                Step::Forget => {
                    redis::cmd("DEL").arg(&twins.key).exec(&mut twins.conn).unwrap();
                    twins.model = Bucket::default();
                }
            }
            assert_eq!(twins.stored(), twins.model);
        }
        redis::cmd("DEL").arg(&twins.key).exec(&mut twins.conn).unwrap();
        Ok(())
    });
    checked.unwrap();
}
