// SPDX-License-Identifier: Apache-2.0

//! The requests in the work queue, without consuming them: a work queue serves messages only to its
//! consumers, but reports which subjects hold one.

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use slipway_proto::subject::RequestSubject;
use slipway_proto::{Build, BuildId, BuildRequest, PoolName, Priority, ProjectName, Timestamp};

use crate::Queue;
use crate::publish::PublishError;
use crate::query::QueryError;
use crate::read::is_missing;

/// Why a request was not put into the queue again.
#[derive(Debug, thiserror::Error)]
pub enum RequeueError {
    /// The old one could not be removed.
    #[error(transparent)]
    Remove(#[from] QueryError),
    /// The new one could not be stored.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Queue {
    fn request_subject(&self, request: &BuildRequest) -> String {
        self.subjects.build(&request.pool, request.priority, &request.project, request.build)
    }

    fn builds_refused(&self, source: async_nats::Error) -> QueryError {
        QueryError::of_stream(&self.subjects.builds_stream(), source)
    }

    /// Returns whether the queue holds a build's request, waiting or held by a worker.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn holds(&self, request: &BuildRequest) -> Result<bool, QueryError> {
        let stream = self.jetstream.get_stream_no_info(self.subjects.builds_stream()).await;
        let stream = stream.map_err(|error| self.builds_refused(error.into()))?;
        match stream.get_last_raw_message_by_subject(&self.request_subject(request)).await {
            Ok(_message) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(self.builds_refused(error.into())),
        }
    }

    /// Returns the builds of a project whose requests are in the queue, waiting or held.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn builds_in_queue(
        &self,
        project: &ProjectName,
    ) -> Result<BTreeSet<BuildId>, QueryError> {
        self.subjects_in_queue(&self.subjects.builds_of_project(project)).await
    }

    /// Returns the builds of all projects whose requests are in the queue.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn all_in_queue(&self) -> Result<BTreeSet<BuildId>, QueryError> {
        self.subjects_in_queue(&self.subjects.builds()).await
    }

    async fn subjects_in_queue(&self, filter: &str) -> Result<BTreeSet<BuildId>, QueryError> {
        let refused = |error: async_nats::Error| self.builds_refused(error);
        let stream = self.jetstream.get_stream_no_info(self.subjects.builds_stream()).await;
        let stream = stream.map_err(|error| refused(error.into()))?;
        let info = stream.info_builder().subjects(filter).fetch().await;
        let subjects = info.map_err(|error| refused(error.into()))?;
        subjects
            .map_err(|error| refused(error.into()))
            .try_filter_map(|(subject, _count)| async move {
                let request = RequestSubject::parse(&subject);
                Ok(request.and_then(|request| request.build.parse::<BuildId>().ok()))
            })
            .try_collect()
            .await
    }

    /// Returns the classes with requests that their consumer neither delivers nor counts as held.
    ///
    /// Seen on nats-server 2.9.10, after a full disk and after a purge by subject, and reported for
    /// newer ones (nats-server#7680). Only classes without waiting requests are returned: in a busy
    /// class the counts, which are read one after the other, never agree.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn stranded(&self) -> Result<BTreeSet<(PoolName, Priority)>, QueryError> {
        let mut stranded = BTreeSet::new();
        for class in self.depth().await?.classes.into_iter().filter(|class| class.queued == 0) {
            let filter = self.subjects.builds_of(&class.pool, class.priority);
            if self.subjects_in_queue(&filter).await?.len() as u64 > class.running {
                stranded.insert((class.pool, class.priority));
            }
        }
        Ok(stranded)
    }

    /// Replaces a build's request in the queue by a new message.
    ///
    /// # Errors
    ///
    /// When the queue is full, or the server does not answer.
    pub async fn requeue(&self, build: &Build) -> Result<(), RequeueError> {
        self.remove_request(&build.request).await?;
        // Under a new id, because the server remembers the old one for two minutes.
        let id = format!("{}:{}", build.state.epoch, Timestamp::now().as_nanosecond());
        self.enqueue_as(build, None, &id).await?;
        Ok(())
    }

    /// Removes a build's request from the queue, even while a worker holds it. Repeating it is
    /// harmless.
    ///
    /// By its sequence and not by a purge of its subject: after such a purge the consumers of
    /// nats-server 2.9.10 skip every message in the queue.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn remove_request(&self, request: &BuildRequest) -> Result<(), QueryError> {
        let stream = self.jetstream.get_stream_no_info(self.subjects.builds_stream()).await;
        let stream = stream.map_err(|error| self.builds_refused(error.into()))?;
        let message =
            match stream.get_last_raw_message_by_subject(&self.request_subject(request)).await {
                Ok(message) => message,
                Err(error) if is_missing(&error) => return Ok(()),
                Err(error) => return Err(self.builds_refused(error.into())),
            };
        match stream.delete_message(message.sequence).await {
            Ok(_deleted) => Ok(()),
            // If it is gone, another process was faster.
            Err(error) => match self.holds(request).await? {
                true => Err(self.builds_refused(error.into())),
                false => Ok(()),
            },
        }
    }
}
