// SPDX-License-Identifier: Apache-2.0

//! The chaos suite, short and with a fixed seed; `make chaos` runs it longer and with others.

use slipway_tests::chaos::{self, Options};

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_faults_breaks_no_promise() {
    let options = Options {
        seconds: 60,
        seed: 3,
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
