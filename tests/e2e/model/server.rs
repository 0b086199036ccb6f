// SPDX-License-Identifier: Apache-2.0

//! What a scene needs of a server beside the operations of the protocols.

use std::sync::Arc;

use slipway_proto::event::Event;
use slipway_queue::delivery::Delivered;
use slipway_queue::protocol::Operations;

/// A request as a worker got it.
#[derive(Debug, Clone)]
pub(crate) struct Taken<D> {
    /// What it is answered by.
    pub(crate) delivery: D,
    /// Its place in the queue.
    pub(crate) sequence: u64,
    /// The request.
    pub(crate) delivered: Delivered,
}

/// A server that the actors work on.
pub(crate) trait Server: Operations<Delivery: Clone> + 'static {
    /// Takes the next request, if one waits.
    fn take(&self) -> impl Future<Output = Option<Taken<Self::Delivery>>> + Send;

    /// Returns the place of a request in the queue.
    fn sequence(&self, delivery: &Self::Delivery) -> u64;

    /// Lists all events.
    fn events(&self) -> impl Future<Output = Vec<Arc<Event>>> + Send;

    /// Lets so much time pass that ids come to be new again.
    fn let_window_pass(&self) -> impl Future<Output = ()> + Send;
}
