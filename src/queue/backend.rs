//! The apalis backend: hands claimed jobs to the worker and wraps every handler in the settle layer.
//!
//! Its error is `Infallible` on purpose: apalis ends a worker whose backend fails, and nothing Redis does may end one.
//! The loops beside it deal with Redis; what reaches this file has already been claimed.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    error::BoxDynError,
    task::{Task, task_id::TaskId},
    worker::context::WorkerContext,
};
use carillon_jobs::Job;
use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::mpsc;
use tower::{Layer, Service};

use super::{
    JobContext, Outcome,
    ticket::{Failure, Ticket},
};

/// A claimed job on its way to its handler.
#[derive(Debug)]
pub(crate) struct Work {
    /// The number of its claim.
    pub(crate) number: u64,
    pub(crate) job: Job,
    pub(crate) context: JobContext,
    /// Taken by the settle layer before anything else sees the task.
    pub(crate) ticket: Option<Ticket>,
}

/// Where the worker gets its tasks. Clones share the same stream, so a worker that is restarted goes on with it.
#[derive(Debug, Clone)]
pub(crate) struct QueueBackend {
    work: Arc<Mutex<mpsc::UnboundedReceiver<Work>>>,
}

impl QueueBackend {
    pub(crate) fn new(work: mpsc::UnboundedReceiver<Work>) -> Self {
        Self {
            work: Arc::new(Mutex::new(work)),
        }
    }
}

impl Backend for QueueBackend {
    type Task = Task<Work>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        self.work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .poll_recv(cx)
            .map(|work| work.map(|work| Ok(Task::new(work))))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        // Settlements are flushed by the settle loop, which outlives the worker.
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for QueueBackend {
    type Args = Work;
    type Id = TaskId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = SettleLayer;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> SettleLayer {
        SettleLayer
    }
}

/// The outermost layer: whatever comes out of the handler, an error or a panic included, becomes a settlement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SettleLayer;

impl<S> Layer<S> for SettleLayer {
    type Service = Settle<S>;

    fn layer(&self, inner: S) -> Settle<S> {
        Settle { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Settle<S> {
    inner: S,
}

impl<S> Service<Task<Work>> for Settle<S>
where
    S: Service<Task<Work>, Response = Outcome, Error = BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<(), Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.inner.poll_ready(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            // No layer of ours fails to become ready. If one did, apalis would end the worker; waiting keeps it alive.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    fn call(&mut self, mut task: Task<Work>) -> Self::Future {
        let ticket = task.args.ticket.take();
        self.inner
            .call(task)
            .map(move |result| {
                if let Some(ticket) = ticket {
                    ticket.settle(result.map_err(failure));
                }
                Ok(())
            })
            .boxed()
    }
}

fn failure(error: BoxDynError) -> Failure {
    match error.downcast::<Failure>() {
        Ok(failure) => *failure,
        Err(other) => Failure::Panicked(other.to_string()),
    }
}
