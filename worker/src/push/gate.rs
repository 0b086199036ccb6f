// SPDX-License-Identifier: Apache-2.0

//! The last check before a manifest is written: the artifact is the right one, and the build still
//! belongs to this worker.
//!
//! Blobs pass without it. Nothing refers to them, so a registry's garbage collection removes those
//! of a build that is not published.

use super::PushError;
use crate::input::Verified;
use crate::observer::Observer;

/// Decides whether an image may be published.
#[derive(Clone, Copy)]
pub struct PublishGate<'a> {
    /// Whether the artifact is the one that the request names.
    pub verified: &'a Verified,
    /// The follower of the build, who knows whether it is still this worker's.
    pub observer: &'a dyn Observer,
}

impl PublishGate<'_> {
    /// Waits until a manifest may be written.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub async fn pass(&self) -> Result<(), PushError> {
        self.verified.wait().await.map_err(|_reported_by_the_pipeline| PushError::Withheld)?;
        if self.observer.holds() { Ok(()) } else { Err(PushError::LeaseLost) }
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::{Failure, Reason, Stage};

    use super::*;
    use crate::failure::StageError;
    use crate::liveness::Liveness;

    /// A build that is, or is no longer, this worker's.
    struct Held(bool);

    impl Observer for Held {
        fn stage(&self, _stage: Stage) {}
        fn line(&self, _line: &str) {}
        fn liveness(&self) -> Liveness {
            Liveness::default()
        }
        fn holds(&self) -> bool {
            self.0
        }
    }

    #[tokio::test]
    async fn only_the_holder_of_a_build_with_the_right_artifact_passes_the_gate() {
        let damaged = StageError::permanent(Failure::new(Reason::FetchArtifactFailed, "damaged"));
        let pass = |holds: bool, verified: Result<(), StageError>| async move {
            let verified = Verified::by(std::future::ready(verified));
            PublishGate { verified: &verified, observer: &Held(holds) }.pass().await
        };
        pass(true, Ok(())).await.expect("it may be published");
        let lost = pass(false, Ok(())).await.expect_err("it is another's");
        assert!(matches!(lost, PushError::LeaseLost), "{lost}");
        assert!(StageError::from(lost).transient);
        let withheld = pass(true, Err(damaged)).await.expect_err("it is damaged");
        assert!(matches!(withheld, PushError::Withheld), "{withheld}");
    }
}
