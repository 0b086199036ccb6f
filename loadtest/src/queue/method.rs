// SPDX-License-Identifier: Apache-2.0

//! What the report says about how the queue was measured.

/// How the queue is measured, as Markdown.
pub const METHOD: &str = "\
- **Ceiling**: a bare publisher stores, for each build, the same three messages that the dispatcher
  stores (record, request, `build.queued`) in a stream of its own, with at most 2,048 of them
  unconfirmed.
- **Submissions** have an idempotency key each, as those of the command line have: a header where they
  come one by one, a field in batches.
- **Builds through the queue** run in workers whose image stages do nothing. The clock runs from the
  first claim to the empty queue.
- **Accepted to first stage** is the difference of the times in `build.queued` and `build.stage`, in a
  fleet that has nothing else to do. Bare JetStream is a publish to its delivery at a consumer that
  waits, measured just before.
- **Fan-out**: an event counts when the last byte of its frame is read, by the same code for the
  dispatcher's subscribers and for those of nats-server, which get the same frame on a subject of
  core NATS.
- Processor time is that of each process for one build, event or message.
- That no accepted build is lost is measured by `make chaos`, not here.
";
