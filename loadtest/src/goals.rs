// SPDX-License-Identifier: Apache-2.0

//! The goals: what the benchmark's rows are held against.
//!
//! All but the times of the last three are ratios within one run, because two machines differ by a
//! factor of two on the same commit. The **floor** is curl uploading the same bytes to the same
//! registry. The **ceiling** is a bare publisher of the same messages. **Bare JetStream** is a
//! publish to its delivery at a waiting consumer. The **server's own fan-out** is nats-server
//! sending the same bytes to as many subscribers.
//!
//! One more goal, no accepted build lost, is not the benchmark's to see: the chaos suite kills,
//! restarts and cuts off every program and counts (`make chaos`).

use std::time::Duration;

/// A new 46 MB JAR, submitted to finished: at most so many times the floor.
pub const NEW: f64 = 1.2;
/// The same: at most so many times the floor's processor time.
pub const NEW_CPU: f64 = 4.0;
/// The same with the upload of the JAR to the dispatcher: at most so many times the floor.
pub const WITH_UPLOAD: f64 = 1.6;
/// One class changed: at most so much of the floor of the whole JAR.
pub const ONE_CLASS: f64 = 0.3;
/// Nothing changed: at most so much of the floor of the whole JAR.
pub const NOTHING: f64 = 0.08;
/// Memory of one build slot above what an idle worker holds, in MiB, whatever the artifact's size.
pub const SLOT_MIB: f64 = 32.0;
/// Many builds on two slots: at most so many times curl, two uploads at a time.
pub const TOGETHER: f64 = 1.4;
/// The slowest of them: at most so many times a build that has one of two slots while no other
/// build waits.
pub const SLOWEST: f64 = 1.2;
/// Durable submissions over HTTP with a key, one by one: at least so much of the ceiling.
pub const SINGLE: f64 = 0.45;
/// The same in batches.
pub const BATCH: f64 = 0.6;
/// Accepted to a worker's first stage, median and 99th percentile: at most so many times the same
/// percentile of bare JetStream.
pub const WAKE: f64 = 5.0;
/// Builds through queue, claim, events and confirmed acknowledgement: at least so much of the
/// ceiling.
pub const THROUGH_QUEUE: f64 = 0.16;
/// An event to all subscribers, 99th percentile: at most so many times the server's own fan-out.
pub const FANOUT: f64 = 2.0;
/// Cancelled to stopped, 99th percentile: below this.
pub const CANCEL: Duration = Duration::from_millis(100);
/// Worker killed to its build running again: at most this, a lease (15 s) and a second.
pub const TAKEN_OVER: Duration = Duration::from_secs(16);
