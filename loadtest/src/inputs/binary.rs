// SPDX-License-Identifier: Apache-2.0

//! A static program of any size: one that exits at once, followed by bytes that look like code.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use super::Key;
use super::content::Content;
use super::tiny;

/// How much is drawn at once, in bytes.
const PIECE: u64 = 1 << 20;

/// Writes an executable of so many bytes.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_binary(key: Key, bytes: u64, path: &Path) -> io::Result<()> {
    let mut content = Content::new();
    content.seed(key.0, 0);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let program = tiny();
    file.write_all(&program)?;
    let mut left = bytes.saturating_sub(program.len() as u64);
    let mut piece = Vec::new();
    while left > 0 {
        let length = left.min(PIECE);
        piece.clear();
        content.fill(&mut piece, usize::try_from(length).expect("a small piece"));
        file.write_all(&piece)?;
        left -= length;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_size_that_was_asked_for_and_its_own_bytes() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |round| {
            let path = directory.path().join("program");
            let key = Key::new(1, "binary", "queue", round);
            write_binary(key, 1_500_000, &path).expect("it is written");
            std::fs::read(path).expect("it is there")
        };
        let (one, other) = (write(1), write(2));
        assert_eq!((one.len(), other.len()), (1_500_000, 1_500_000));
        assert!(one.starts_with(b"\x7fELF") && one != other);
        assert_eq!(one, write(1));
    }
}
