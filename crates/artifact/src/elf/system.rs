// SPDX-License-Identifier: Apache-2.0

//! The operating system that an executable is for. ELF is the format of most of them, and Linux
//! starts a program of another one all the same: it dies at its first system call.

/// Notes by which a linker marks a program of a system, by their owner.
const OWNERS: [(&str, &str); 5] = [
    ("FreeBSD", "FreeBSD"),
    ("NetBSD", "NetBSD"),
    ("OpenBSD", "OpenBSD"),
    ("DragonFly", "DragonFly BSD"),
    ("MidnightBSD", "MidnightBSD"),
];

/// Dynamic linkers that only one system has. Illumos and Solaris have several of the last names.
const INTERPRETERS: [(&str, &str); 18] = [
    ("/libexec/ld-elf.so.1", "FreeBSD"),
    ("/libexec/ld-elf32.so.1", "FreeBSD"),
    ("/usr/libexec/ld-elf.so.1", "FreeBSD"),
    ("/libexec/ld-elf.so.2", "DragonFly BSD"),
    ("/usr/libexec/ld-elf.so.2", "DragonFly BSD"),
    ("/libexec/ld.elf_so", "NetBSD"),
    ("/usr/libexec/ld.elf_so", "NetBSD"),
    ("/usr/libexec/ld.so", "OpenBSD"),
    ("/system/bin/linker", "Android"),
    ("/system/bin/linker64", "Android"),
    ("/system/runtime_loader", "Haiku"),
    ("/lib/ld-x86-64.so.1", "the Hurd"),
    ("/usr/lib/Loader.so", "SerenityOS"),
    ("/lib/amd64/ld.so.1", "Solaris or illumos"),
    ("/usr/lib/amd64/ld.so.1", "Solaris or illumos"),
    ("/lib/64/ld.so.1", "Solaris or illumos"),
    ("/usr/lib/64/ld.so.1", "Solaris or illumos"),
    ("/usr/lib/ld.so.1", "Solaris or illumos"),
];

/// Returns the system of an `EI_OSABI` (System V ABI, "ELF Identification"); `None` for Linux,
/// which is 0 as every system that adds nothing, or 3.
pub(super) fn of_os_abi(os_abi: u8) -> Option<String> {
    let name = match os_abi {
        0 | 3 => return None,
        1 => "HP-UX",
        2 => "NetBSD",
        4 => "the Hurd",
        6 => "Solaris or illumos",
        7 => "AIX",
        8 => "IRIX",
        9 => "FreeBSD",
        10 => "Tru64",
        11 => "Novell Modesto",
        12 => "OpenBSD",
        13 => "OpenVMS",
        14 => "HP NonStop",
        15 => "AROS",
        16 => "FenixOS",
        17 => "CloudABI",
        18 => "OpenVOS",
        97 => "the old ABI of ARM",
        64 | 255 => "a processor without an operating system",
        other => return Some(format!("an unknown operating system (EI_OSABI {other})")),
    };
    Some(name.to_owned())
}

/// Returns the system that a note's owner stands for.
pub(super) fn of_note(owner: &[u8]) -> Option<&'static str> {
    OWNERS.iter().find(|(known, _)| known.as_bytes() == owner).map(|(_, system)| *system)
}

/// Returns the system of a GNU note about the ABI (`NT_GNU_ABI_TAG`); `None` for Linux.
pub(super) fn of_abi_tag(system: u64) -> Option<&'static str> {
    match system {
        1 => Some("the Hurd"),
        2 => Some("Solaris or illumos"),
        3 => Some("FreeBSD"),
        4 => Some("NetBSD"),
        5 => Some("Syllable"),
        _ => None,
    }
}

/// Returns the system that has this dynamic linker, if it is not Linux.
pub(super) fn of_interpreter(path: &str) -> Option<&'static str> {
    let exact = INTERPRETERS.iter().find(|(known, _)| *known == path);
    let exact = exact.map(|(_, system)| *system);
    exact.or_else(|| path.starts_with("/apex/com.android.runtime/").then_some("Android"))
}

/// Returns the system of a `GOOS`; `None` for Linux.
pub(super) fn of_go(goos: &str) -> Option<&str> {
    Some(match goos {
        "linux" => return None,
        "freebsd" => "FreeBSD",
        "netbsd" => "NetBSD",
        "openbsd" => "OpenBSD",
        "dragonfly" => "DragonFly BSD",
        "solaris" | "illumos" => "Solaris or illumos",
        "android" => "Android",
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_the_system_of_two_numbers_only() {
        for os_abi in 0..=255 {
            assert_eq!(of_os_abi(os_abi).is_none(), matches!(os_abi, 0 | 3), "{os_abi}");
        }
    }

    #[test]
    fn the_dynamic_linkers_of_linux_are_of_no_other_system() {
        for path in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-armhf.so.1", "/lib64/ld64.so.2"] {
            assert_eq!(of_interpreter(path), None, "{path}");
        }
        assert_eq!(of_interpreter("/apex/com.android.runtime/bin/linker64"), Some("Android"));
    }
}
