// SPDX-License-Identifier: Apache-2.0

//! The digest of a file, read once in pieces so that its size does not matter.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use slipway_proto::Digest;

/// How much is read at once; larger pieces gain nothing.
const PIECE: usize = 1 << 18;

/// Returns the digest and the size of a file. Blocks.
///
/// # Errors
///
/// When the file cannot be read, or is not a regular file.
pub fn digest_file(path: &Path) -> std::io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut piece = vec![0; PIECE];
    loop {
        let read = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&piece[..read]);
        size += read as u64;
    }
    let bytes: [u8; 32] = hasher.finalize().into();
    Ok((Digest::from(bytes), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let bytes: Vec<u8> = (0..=250).cycle().take(PIECE + 7).collect();
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
