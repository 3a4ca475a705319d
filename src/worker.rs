//! The worker process: which function works on which kind of job. The table is the `match`; the compiler keeps it whole.

use carillon_jobs::Job;

use crate::{
    app::{App, AppError},
    broadcast::BroadcastWork,
    db::PgPool,
    inbox::{ingest::IngestWork, media::MediaWork},
    ledger,
    ledger::refill::RefillWork,
    queue::{self, JobContext, JobError, Outcome},
    scheduler,
    top_up::TopUpWork,
};

/// Everything the kinds need, built once.
#[derive(Clone)]
struct Work {
    broadcast: BroadcastWork,
    refill: RefillWork,
    db: PgPool,
    top_up: TopUpWork,
    ingest: IngestWork,
    media: MediaWork,
}

impl Work {
    async fn run(&self, job: Job, context: JobContext) -> Result<Outcome, JobError> {
        match job {
            Job::BroadcastSend(args) => self.broadcast.run(args, &context).await,
            Job::MonthlyTokenRefill(args) => self.refill.run(args, &context).await,
            Job::Audit(args) => ledger::audit_period(&self.db, args, &context).await,
            Job::TopUpSettlement(args) => self.top_up.run(args, &context).await,
            Job::WebhookIngest(args) => self.ingest.run(args, &context).await,
            Job::MediaFetch(args) => self.media.run(args, &context).await,
        }
    }
}

/// Works until the process is told to stop.
pub async fn run(app: App) -> Result<(), AppError> {
    let work = Work {
        broadcast: app.broadcast_work()?,
        refill: app.refill_work(),
        db: app.db.clone(),
        top_up: app.top_up_work(),
        ingest: app.ingest_work(),
        media: app.media_work()?,
    };
    let db = app.db.clone();
    let handler = move |job: Job, context: JobContext| {
        let (work, db) = (work.clone(), db.clone());
        async move {
            let (kind, about) = (job.kind(), context.clone());
            scheduler::keep_row(&db, kind, &about, work.run(job, context)).await
        }
    };
    queue::run(
        app.queue_config(),
        app.queue_conn()?,
        app.db.clone(),
        handler,
        app.stop.clone(),
    )
    .await;
    Ok(())
}
