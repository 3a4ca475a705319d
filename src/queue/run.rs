//! A worker process from start to stop.
//!
//! apalis runs the handlers; four loops beside it claim, renew, settle and listen, a fifth writes dead jobs to Postgres and a
//! sixth reads from there what is paused. Stopping takes less than 25 seconds whatever hangs: drain (`drain_secs`, at most 18) while handlers finish
//! their slice, abort and give back what did not, then at most five seconds to tell Redis.

use std::{future::Future, sync::Arc, time::Duration};

use apalis::{
    layers::{
        WorkerBuilderExt as _,
        catch_panic::CatchPanicLayer,
        tracing::{OnFailure, OnRequest, OnResponse, TraceLayer},
    },
    prelude::Monitor,
};
use apalis_core::{error::BoxDynError, task::Task, worker::builder::WorkerBuilder};
use carillon_jobs::Job;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field};

use super::{
    JobContext, JobError, Outcome, QueueConfig, RedisConn,
    backend::{QueueBackend, Work},
    claimer, dead_writer,
    engine::Engine,
    renewer, rest,
    service::HandlerService,
    settler,
    ticket::Failure,
    wake,
};
use crate::telemetry;

use crate::db::PgPool;

/// How long aborted handlers and the worker loop get to end.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// How long the last settlements may take. Longer than the longest answer Redis is waited for, so that one can be repeated.
const FLUSH_GRACE: Duration = Duration::from_secs(4);

/// Runs jobs with `handler` until `shutdown` is cancelled and everything has been settled or given back.
///
/// Redis or Postgres being away never ends it. Every kind in [`carillon_jobs::Kind::ALL`] is served; others are left alone.
pub async fn run<H, F>(config: QueueConfig, redis: RedisConn, pool: PgPool, handler: H, shutdown: CancellationToken)
where
    H: Fn(Job, JobContext) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Outcome, JobError>> + Send + 'static,
{
    let worker_id = worker_id();
    let engine = Engine::new(config, redis, &worker_id, shutdown.clone());
    tracing::info!(
        worker.id = worker_id,
        concurrency = engine.config.concurrency,
        "the worker takes jobs"
    );
    let finish = CancellationToken::new();
    let (send_work, receive_work) = mpsc::unbounded_channel();
    let settling = tokio::spawn(settler::run(Arc::clone(&engine), finish.clone()));
    let side_loops = [
        tokio::spawn(renewer::run(Arc::clone(&engine), finish.clone())),
        tokio::spawn(wake::run(Arc::clone(&engine), finish.clone())),
        tokio::spawn(dead_writer::run(Arc::clone(&engine), pool.clone(), finish.clone())),
        tokio::spawn(rest::run(Arc::clone(&engine), pool, finish.clone())),
    ];
    let claiming = tokio::spawn(claimer::run(Arc::clone(&engine), send_work));
    let stop_worker = CancellationToken::new();
    let worker = tokio::spawn(work(
        worker_id,
        engine.config.concurrency,
        QueueBackend::new(receive_work),
        handler,
        stop_worker.clone(),
    ));

    shutdown.cancelled().await;
    drain(&engine, claiming).await;
    stop_worker.cancel();
    if timeout(ABORT_GRACE, worker).await.is_err() {
        tracing::warn!("a handler cannot be stopped; its job will be recovered when its lease runs out");
    }
    finish.cancel();
    if timeout(FLUSH_GRACE, settling).await.is_err() {
        tracing::warn!(
            "Redis did not take the last settlements; their jobs will be recovered when their leases run out"
        );
    }
    for side_loop in side_loops {
        side_loop.abort();
    }
    tracing::info!("the worker has stopped");
}

/// Boot-unique, because a platform gives a restarted process its old name; what the dead one said last must stay void.
fn worker_id() -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("w{}", id.get(..16).unwrap_or(&id))
}

/// Lets handlers finish their slice, then aborts them.
async fn drain(engine: &Engine, mut claiming: JoinHandle<()>) {
    let drain = Duration::from_secs(engine.config.drain_secs);
    let quiet = async {
        // A claim that was under way may still bring jobs; they are given back.
        let _ = (&mut claiming).await;
        wait_idle(engine).await;
    };
    if timeout(drain, quiet).await.is_ok() {
        return;
    }
    claiming.abort();
    tracing::warn!(
        running = engine.slots.running(),
        "handlers did not finish in time and are aborted; their jobs are given back"
    );
    engine.held.abort_all();
    // Those that do not stop are told of once the worker has been given its own time.
    let _ = timeout(ABORT_GRACE, wait_idle(engine)).await;
}

async fn wait_idle(engine: &Engine) {
    while engine.slots.running() > 0 {
        // The claim loop, the other listener, has ended, so every slot that is freed is heard of here.
        engine.slots.freed.notified().await;
    }
}

async fn work<H, F>(worker_id: String, concurrency: u32, backend: QueueBackend, handler: H, stop: CancellationToken)
where
    H: Fn(Job, JobContext) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Outcome, JobError>> + Send + 'static,
{
    let monitor = Monitor::new()
        .register(move |_| {
            WorkerBuilder::new(worker_id.clone())
                .backend(backend.clone())
                .layer(
                    TraceLayer::new()
                        .make_span_with(job_span)
                        .on_request(Quiet)
                        .on_response(Quiet)
                        .on_failure(Quiet),
                )
                .layer(CatchPanicLayer::with_panic_handler(panicked))
                .concurrency(concurrency as usize)
                .build(HandlerService::new(handler.clone()))
        })
        // Only a bug in a layer gets here. The jobs under way are given back, and the worker goes on.
        .should_restart(|_, error| {
            tracing::error!(%error, "the worker loop broke and is started again");
            true
        });
    let stopped = async move {
        stop.cancelled().await;
        Ok(())
    };
    if let Err(error) = monitor.run_with_signal(stopped).await {
        tracing::error!(%error, "the worker loop ended with an error");
    }
}

fn job_span(task: &Task<Work>) -> Span {
    let Work { job, context, .. } = &task.args;
    let span = tracing::info_span!(
        "job",
        job.kind = job.kind().name(),
        job.id = context.id,
        job.attempt = context.attempt,
        traceparent = context.traceparent.map(field::display),
    );
    telemetry::continues(&span, context.traceparent);
    span
}

fn panicked(payload: &Box<dyn std::any::Any + Send>) -> Failure {
    let message = payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Failure::Panicked(message)
}

/// Outcomes are logged where they are settled, once and with their consequence.
#[derive(Debug, Clone, Copy)]
struct Quiet;

impl OnRequest<Work> for Quiet {
    fn on_request(&mut self, _: &Task<Work>, _: &Span) {}
}

impl OnResponse<Outcome> for Quiet {
    fn on_response(self, _: &Outcome, _: Duration, _: &Span) {}
}

impl OnFailure<BoxDynError> for Quiet {
    fn on_failure(&mut self, _: &BoxDynError, _: Duration, _: &Span) {}
}
