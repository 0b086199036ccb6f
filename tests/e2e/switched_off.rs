// SPDX-License-Identifier: Apache-2.0

//! The checker can fail: each protection is switched off in the situation that it exists for, and
//! the checker must report a violation. With the protection on, it must report none.

use slipway_tests::chaos::scenario::{Protection, violations};

async fn is_missed(protection: Protection) {
    let (on, off) = tokio::join!(
        Box::pin(violations(protection, false)),
        Box::pin(violations(protection, true))
    );
    let (on, off) = (on.expect("a history"), off.expect("a history"));
    assert!(on.is_empty(), "{protection} on: {on:#?}");
    assert!(!off.is_empty(), "nobody misses {protection}");
    println!("{protection} off: {}", off[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn epoch_fencing_is_missed() {
    is_missed(Protection::EpochFencing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_confirmed_acknowledgement_is_missed() {
    is_missed(Protection::ConfirmedAck).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accept_reconciler_is_missed() {
    is_missed(Protection::AcceptReconciler).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tag_fencing_is_missed() {
    is_missed(Protection::TagFencing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn self_fencing_is_missed() {
    is_missed(Protection::SelfFencing).await;
}
