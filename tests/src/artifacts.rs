// SPDX-License-Identifier: Apache-2.0

//! Artifacts for tests: archives and executables, with the same bytes each time.

use std::io::Write as _;
use std::process::{Command, Stdio};

use bytes::Bytes;

/// An entry of a ZIP archive to write.
#[derive(Debug, Clone)]
pub struct ZipEntry {
    /// Its name in the archive.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it is deflated.
    pub is_deflated: bool,
    /// When it was last changed: time and date of DOS.
    pub modified: (u16, u16),
}

impl ZipEntry {
    /// Sets when it was last changed, to the even second, in a year from 1980.
    #[must_use]
    pub fn at(mut self, [year, month, day]: [u16; 3], [hours, minutes, seconds]: [u16; 3]) -> Self {
        let date = ((year - 1980) << 9) | (month << 5) | day;
        self.modified = ((hours << 11) | (minutes << 5) | (seconds / 2), date);
        self
    }
}

/// Makes a stored entry.
#[must_use]
pub fn entry(name: &str, bytes: impl Into<Vec<u8>>) -> ZipEntry {
    ZipEntry { name: name.to_owned(), bytes: bytes.into(), is_deflated: false, modified: (0, 0x21) }
}

/// Makes a deflated entry.
#[must_use]
pub fn deflated(name: &str, bytes: impl Into<Vec<u8>>) -> ZipEntry {
    ZipEntry { is_deflated: true, ..entry(name, bytes) }
}

/// Writes a ZIP archive of entries, in the given order, whatever their names.
///
/// # Panics
///
/// When the archive would need ZIP64, or gzip, which deflates, does not run.
#[must_use]
pub fn zip(entries: &[ZipEntry]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for ZipEntry { name, bytes, is_deflated, modified } in entries {
        let (method, content) = if *is_deflated { (8, deflate(bytes)) } else { (0, bytes.clone()) };
        let offset = u32::try_from(archive.len()).expect("a small archive");
        let size = u32::try_from(bytes.len()).expect("a small entry");
        let stored_size = u32::try_from(content.len()).expect("a small entry");
        let checksum = crc32(bytes);
        let name_length = u16::try_from(name.len()).expect("a short name");
        let mut common = Vec::new();
        // Version, flags (UTF-8), method, time, date.
        for number in [20u16, 0x0800, method, modified.0, modified.1] {
            common.extend_from_slice(&number.to_le_bytes());
        }
        for number in [checksum, stored_size, size] {
            common.extend_from_slice(&number.to_le_bytes());
        }
        common.extend_from_slice(&name_length.to_le_bytes());
        common.extend_from_slice(&[0, 0]);
        archive.extend_from_slice(b"PK\x03\x04");
        archive.extend_from_slice(&common);
        archive.extend_from_slice(name.as_bytes());
        archive.extend_from_slice(&content);
        directory.extend_from_slice(b"PK\x01\x02\x14\x00");
        directory.extend_from_slice(&common);
        // Comment length, disk, internal and external attributes.
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let offset = u32::try_from(archive.len()).expect("a small archive");
    let size = u32::try_from(directory.len()).expect("a small directory");
    let count = u16::try_from(entries.len()).expect("few entries");
    archive.extend_from_slice(&directory);
    archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    archive.extend_from_slice(&count.to_le_bytes());
    archive.extend_from_slice(&count.to_le_bytes());
    archive.extend_from_slice(&size.to_le_bytes());
    archive.extend_from_slice(&offset.to_le_bytes());
    archive.extend_from_slice(&[0, 0]);
    archive
}

/// Returns the deflated bytes between gzip's header and its checksum and length.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    let member = gzip(bytes);
    member[10..member.len() - 8].to_vec()
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut checksum = !0u32;
    for byte in bytes {
        checksum ^= u32::from(*byte);
        for _ in 0..8 {
            checksum = (checksum >> 1) ^ (0xedb8_8320 & (checksum & 1).wrapping_neg());
        }
    }
    !checksum
}

/// The start of a class file for a Java release.
#[must_use]
pub fn class(java_release: u8) -> Vec<u8> {
    vec![0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 44 + java_release, 0, 1]
}

/// An executable JAR for Java 17 that does nothing. `salt` makes it differ.
#[must_use]
pub fn jar(salt: &str) -> Vec<u8> {
    zip(&[
        entry("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nMain-Class: Main\r\n\r\n"),
        entry("Main.class", class(17)),
        entry("salt.txt", salt),
    ])
}

/// A Spring Boot JAR with an index of layers and two nested libraries.
#[must_use]
pub fn spring_boot_jar() -> Vec<u8> {
    let manifest = "Manifest-Version: 1.0\r\n\
        Main-Class: org.springframework.boot.loader.launch.JarLauncher\r\n\
        Start-Class: com.example.App\r\nSpring-Boot-Version: 3.3.0\r\n\
        Spring-Boot-Classes: BOOT-INF/classes/\r\nSpring-Boot-Lib: BOOT-INF/lib/\r\n\
        Spring-Boot-Layers-Index: BOOT-INF/layers.idx\r\n\r\n";
    let index = "- \"dependencies\":\n  - \"BOOT-INF/lib/one.jar\"\n\
        - \"spring-boot-loader\":\n  - \"org/\"\n\
        - \"snapshot-dependencies\":\n  - \"BOOT-INF/lib/two-SNAPSHOT.jar\"\n\
        - \"application\":\n  - \"BOOT-INF/classes/\"\n  - \"BOOT-INF/layers.idx\"\n\
        \x20 - \"META-INF/\"\n";
    zip(&[
        entry("META-INF/", ""),
        entry("META-INF/MANIFEST.MF", manifest),
        entry("org/springframework/boot/loader/launch/JarLauncher.class", class(17)),
        entry("BOOT-INF/", ""),
        entry("BOOT-INF/classes/", ""),
        entry("BOOT-INF/classes/com/example/App.class", class(17)),
        entry("BOOT-INF/classes/application.properties", "server.port=8080\n"),
        entry("BOOT-INF/lib/", ""),
        entry("BOOT-INF/lib/one.jar", zip(&[entry("one.txt", "1")])),
        entry("BOOT-INF/lib/two-SNAPSHOT.jar", zip(&[entry("two.txt", "2")])),
        entry("BOOT-INF/layers.idx", index),
    ])
}

/// A WAR with a page, a class and a library.
#[must_use]
pub fn war() -> Vec<u8> {
    let descriptor = "<web-app xmlns=\"https://jakarta.ee/xml/ns/jakartaee\" version=\"6.0\"/>\n";
    zip(&[
        entry("index.jsp", "hello\n"),
        entry("WEB-INF/web.xml", descriptor),
        entry("WEB-INF/classes/Servlet.class", class(17)),
        entry("WEB-INF/lib/library.jar", zip(&[entry("library.txt", "1")])),
    ])
}

/// A WAR for the old servlet API and Java 8.
#[must_use]
pub fn old_war() -> Vec<u8> {
    let descriptor = "<web-app xmlns=\"http://java.sun.com/xml/ns/javaee\" version=\"2.5\"/>\n";
    zip(&[
        entry("index.jsp", "hello\n"),
        entry("WEB-INF/web.xml", descriptor),
        entry("WEB-INF/classes/Servlet.class", class(8)),
    ])
}

/// A static 64-bit ELF executable for a machine (62 is x86-64, 183 is AArch64). For x86-64 it exits
/// at once with status 0. `salt` makes it differ.
#[must_use]
pub fn elf(machine: u16, salt: &str) -> Vec<u8> {
    // mov edi, 0; mov eax, 60; syscall
    let code = [0xbf, 0, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let (base, headers) = (0x40_0000u64, 64u64 + 56);
    let size = headers + code.len() as u64 + salt.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend_from_slice(&2u16.to_le_bytes());
    elf.extend_from_slice(&machine.to_le_bytes());
    elf.extend_from_slice(&1u32.to_le_bytes());
    for number in [base + headers, 64, 0] {
        elf.extend_from_slice(&number.to_le_bytes());
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    for number in [64u16, 56, 1, 64, 0, 0] {
        elf.extend_from_slice(&number.to_le_bytes());
    }
    // One loaded segment, readable and executable.
    elf.extend_from_slice(&1u32.to_le_bytes());
    elf.extend_from_slice(&5u32.to_le_bytes());
    for number in [0, base, base, size, size, 0x1000] {
        elf.extend_from_slice(&number.to_le_bytes());
    }
    elf.extend_from_slice(&code);
    elf.extend_from_slice(salt.as_bytes());
    elf
}

/// Makes a tar archive with Debian's tar, the same bytes each time.
///
/// # Panics
///
/// When tar does not run.
#[must_use]
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    for (path, bytes) in files {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("it can be made");
        std::fs::write(path, bytes).expect("it can be written");
    }
    let output = Command::new("tar")
        .args([
            "--sort=name",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mode=u=rwX,go=rX",
            "--format=ustar",
            "-cf",
            "-",
            "-C",
        ])
        .arg(directory.path())
        .args(files.iter().map(|(path, _)| path))
        .output()
        .expect("tar runs");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Compresses bytes with gzip, without name or time.
///
/// # Panics
///
/// When gzip does not run.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Bytes {
    pipe(Command::new("gzip").arg("-n"), bytes).into()
}

/// Lists a compressed layer: type and mode, owner, size, time and path of each entry.
///
/// # Panics
///
/// When tar does not read it.
#[must_use]
pub fn tar_listing(layer: &[u8]) -> Vec<String> {
    let listing = pipe(
        Command::new("tar").env("TZ", "UTC").args(["--numeric-owner", "--full-time", "-tvzf", "-"]),
        layer,
    );
    let text = String::from_utf8(listing).expect("UTF-8");
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn pipe(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the program ends");
    // The program may end before it has read everything.
    let _broken_pipe = writer.join().expect("the writer does not panic");
    assert!(output.status.success());
    output.stdout
}
