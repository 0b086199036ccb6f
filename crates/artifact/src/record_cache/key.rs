// SPDX-License-Identifier: Apache-2.0

//! The key of a record: a digest of everything that the record depends on.
//!
//! Each field is preceded by its length, so that two different lists of fields never give the same
//! bytes. Plain concatenation would not tell `ab`, `c` from `a`, `bc`.

use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;

/// A key under construction.
#[derive(Debug, Clone)]
pub struct RecordKey(Sha256);

impl RecordKey {
    /// Starts the key of a kind of record.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        let mut key = Self(Sha256::new());
        key.field(kind.as_bytes());
        key
    }

    /// Adds a field.
    pub fn field(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    /// Returns the key.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_key_do_not_run_together() {
        let key = |fields: &[&str]| {
            let mut key = RecordKey::new("x");
            fields.iter().for_each(|field| key.field(field.as_bytes()));
            key.finish()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
    }
}
