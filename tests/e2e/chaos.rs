// SPDX-License-Identifier: Apache-2.0

//! The chaos suite, short and with fixed seeds; `make chaos` runs it longer and with others.

use slipway_tests::chaos::{self, Options};

/// Seeds that found something, with the length of their run in seconds and what it was.
const REGRESSIONS: [(u64, u64); 0] = [];

async fn passes(seed: u64, seconds: u64) {
    let options = Options {
        seconds,
        seed,
        server: None,
        nodes: 1,
        switch_off: None,
        faults: Vec::new(),
        keep: None,
    };
    let report = chaos::run(&options).await.expect("the system can be asked");
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_faults_breaks_no_promise() {
    passes(3, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_a_promise_once_breaks_none_again() {
    for (seed, seconds) in REGRESSIONS {
        passes(seed, seconds).await;
    }
}
