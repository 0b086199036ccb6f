// SPDX-License-Identifier: Apache-2.0

//! The digest of a file, read once in pieces so that its size does not matter.

use std::fs::File;
use std::path::Path;

use slipway_artifact::{FileSource, Source as _, source};
use slipway_proto::Digest;

/// Returns the digest and the size of a file. Blocks.
///
/// # Errors
///
/// When the file cannot be read, or is not a regular file.
pub fn digest_file(path: &Path) -> std::io::Result<(Digest, u64)> {
    let (file, digest) = open_digested(path)?;
    Ok((digest, file.len()))
}

/// Opens a file and returns it with its digest: what is read from it later has that digest as long
/// as it is untouched. Blocks.
///
/// # Errors
///
/// When the file cannot be read, is not a regular file, or is written to meanwhile.
pub(crate) fn open_digested(path: &Path) -> std::io::Result<(FileSource, Digest)> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let file = FileSource::new(file)?;
    let digest = source::digest(&file, &|| Ok(()))?;
    Ok((file, digest))
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
