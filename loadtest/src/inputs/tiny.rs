// SPDX-License-Identifier: Apache-2.0

//! The smallest artifact: a static x86-64 program that exits with 0.

/// Where programs are loaded.
const ADDRESS: u64 = 0x40_0000;
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;

/// `mov eax, 60; xor edi, edi; syscall`: exit(0).
const CODE: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];

/// Returns the program (System V ABI, chapters 4 and 5).
#[must_use]
pub fn tiny() -> Vec<u8> {
    let start = u64::from(HEADER + PROGRAM_HEADER);
    let size = start + CODE.len() as u64;
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(2_u16.to_le_bytes()); // an executable
    bytes.extend(62_u16.to_le_bytes()); // for x86-64
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((ADDRESS + start).to_le_bytes());
    bytes.extend(u64::from(HEADER).to_le_bytes());
    bytes.extend(0_u64.to_le_bytes()); // no sections
    bytes.extend(0_u32.to_le_bytes());
    for half in [HEADER, PROGRAM_HEADER, 1, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(1_u32.to_le_bytes()); // loaded,
    bytes.extend(5_u32.to_le_bytes()); // readable and executable
    for word in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(CODE);
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_program_runs_and_exits_with_0() {
        let bytes = tiny();
        assert_eq!(bytes.len(), 129);
        if !cfg!(target_arch = "x86_64") {
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tiny");
        std::fs::write(&path, bytes).expect("it is written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        assert!(std::process::Command::new(path).status().expect("it runs").success());
    }
}
