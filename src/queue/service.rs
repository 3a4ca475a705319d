//! The innermost service: runs a handler in a task of its own.
//!
//! A task each, because apalis polls all handlers of a worker in one: a handler that computes for a while would hold up
//! its neighbours, and one core would do all the work.

use std::{
    future::Future,
    task::{Context, Poll},
};

use apalis_core::{error::BoxDynError, task::Task};
use carillon_jobs::Job;
use futures::future::BoxFuture;
use tower::Service;
use tracing::Instrument as _;

use super::{JobContext, JobError, Outcome, backend::Work, ticket::Failure};
use crate::telemetry;

#[derive(Debug, Clone)]
pub(crate) struct HandlerService<H> {
    handler: H,
}

impl<H> HandlerService<H> {
    pub(crate) fn new(handler: H) -> Self {
        Self { handler }
    }
}

impl<H, F> Service<Task<Work>> for HandlerService<H>
where
    H: Fn(Job, JobContext) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Outcome, JobError>> + Send + 'static,
{
    type Response = Outcome;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<Outcome, BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Work>) -> Self::Future {
        let Work { job, context, .. } = task.args;
        let handler = self.handler.clone();
        let lease = context.lease.clone();
        // The handler is called inside the task: what it does before its first await may panic too.
        let run = async move { handler(job, context).await };
        let span = tracing::Span::current();
        let running = tokio::spawn(run.instrument(span.clone()));
        lease.attach(running.abort_handle());
        Box::pin(async move {
            let ended = running.await;
            if !matches!(ended, Ok(Ok(_))) {
                telemetry::failed(&span);
            }
            match ended {
                Ok(Ok(outcome)) => Ok(outcome),
                Ok(Err(error)) => Err(Failure::Handler(error).into()),
                Err(error) => match error.try_into_panic() {
                    // Goes on to the catch-panic layer, the one place where a panic becomes an error.
                    Ok(payload) => std::panic::resume_unwind(payload),
                    Err(_) => Err(Failure::Aborted.into()),
                },
            }
        })
    }
}
