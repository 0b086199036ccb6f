// SPDX-License-Identifier: Apache-2.0

//! Answers to delivered messages that the server confirms.

use async_nats::jetstream::{AckKind, Message};

/// Answers a message and waits until the server says that it has taken the answer, as long as the
/// connection gives a request.
///
/// By the client's common inbox, and not by `double_ack_with` of async-nats 0.51: that subscribes
/// an inbox for each answer and leaves it again, three lines to the server instead of one, and it
/// takes the server's word that nobody listens there for a confirmation.
///
/// # Errors
///
/// When no confirmation came; the server may have taken the answer all the same.
pub(crate) async fn confirmed(message: &Message, kind: AckKind) -> Result<(), async_nats::Error> {
    let reply = message.reply.clone().ok_or("the message did not come from a consumer")?;
    message.context.client().request(reply, kind.into()).await?;
    Ok(())
}
