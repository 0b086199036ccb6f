// SPDX-License-Identifier: Apache-2.0

//! The digest of a file, read once in pieces so that its size does not matter.

use std::path::Path;

use crate::source::{self, FileSource, Source as _};
use slipway_proto::Digest;

/// Returns the digest and the size of a file. Blocks.
///
/// # Errors
///
/// When the file cannot be read, or is not a regular file.
pub fn digest_file(path: &Path) -> std::io::Result<(Digest, u64)> {
    let file = FileSource::open(path)?;
    let digest = source::digest(&file, &|| Ok(()))?;
    Ok((digest, file.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let bytes: Vec<u8> = (0..=250).cycle().take((1 << 18) + 7).collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &bytes).expect("it is written");
        let (digest, size) = digest_file(file.path()).expect("it is read");
        assert_eq!((digest, size), (Digest::of(&bytes), bytes.len() as u64));
    }

    #[test]
    fn a_directory_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(digest_file(directory.path()).is_err());
    }
}
