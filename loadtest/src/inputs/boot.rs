// SPDX-License-Identifier: Apache-2.0

//! A JAR in the shape of Spring Boot's: 98 nested libraries, stored; the classes of its loader and
//! of the application, deflated; an entry for every directory, and an index of layers.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::Key;
use super::content::Content;
use super::zip::ZipWriter;

/// The seed of the loader's classes, in all rounds.
const LOADER: u64 = 0x10ad;
const PACKAGE: &str = "BOOT-INF/classes/com/example/shop/";
const MANIFEST: &str = "Manifest-Version: 1.0\r\n\
    Main-Class: org.springframework.boot.loader.launch.JarLauncher\r\n\
    Start-Class: com.example.shop.Shop0\r\nSpring-Boot-Version: 3.3.0\r\n\
    Spring-Boot-Classes: BOOT-INF/classes/\r\nSpring-Boot-Lib: BOOT-INF/lib/\r\n\
    Spring-Boot-Classpath-Index: BOOT-INF/classpath.idx\r\n\
    Spring-Boot-Layers-Index: BOOT-INF/layers.idx\r\nBuild-Jdk-Spec: 17\r\n\r\n";
const LAYERS: &str = "- \"dependencies\":\n  - \"BOOT-INF/lib/\"\n\
    - \"spring-boot-loader\":\n  - \"org/\"\n\
    - \"snapshot-dependencies\":\n\
    - \"application\":\n  - \"BOOT-INF/classes/\"\n  - \"BOOT-INF/classpath.idx\"\n  \
    - \"BOOT-INF/layers.idx\"\n  - \"META-INF/\"\n";

/// The contents of a JAR.
#[derive(Debug, Clone, Copy)]
pub struct BootJar {
    /// The seed of libraries and classes.
    pub key: Key,
    /// The revision of one class. All other bytes stay the same.
    pub revision: u32,
    /// How many nested libraries.
    pub libraries: u64,
    /// How large a library is on average, in bytes before it is compressed.
    pub library_bytes: u64,
    /// How many classes the loader has.
    pub loader_classes: u64,
    /// How many classes the application has, of 2 KiB on average.
    pub classes: u64,
}

impl BootJar {
    /// A JAR of 46 MB: 98 libraries and 1,136 classes.
    #[must_use]
    pub fn of_46_mb(key: Key) -> Self {
        Self {
            key,
            revision: 0,
            libraries: 98,
            library_bytes: 930_000,
            loader_classes: 110,
            classes: 1026,
        }
    }

    /// The same JAR after one class was changed.
    #[must_use]
    pub fn with_one_class_changed(self) -> Self {
        Self { revision: self.revision + 1, ..self }
    }

    /// Writes the JAR to a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        self.write_to(BufWriter::with_capacity(1 << 20, File::create(path)?))
    }

    fn write_to(&self, out: impl Write) -> io::Result<()> {
        let mut content = Content::new();
        let mut jar = ZipWriter::new(out);
        jar.directory("META-INF/")?;
        jar.deflated("META-INF/MANIFEST.MF", MANIFEST.as_bytes())?;
        let launch = "org/springframework/boot/loader/launch/";
        for (end, _) in launch.match_indices('/') {
            jar.directory(&launch[..=end])?;
        }
        for number in 0..self.loader_classes {
            let size = content.size(number, 500, 3500);
            content.seed(LOADER, number);
            let name = if number == 0 { "JarLauncher".to_owned() } else { format!("Part{number}") };
            jar.deflated(&format!("{launch}{name}.class"), &content.class(size))?;
        }
        for (end, _) in PACKAGE.match_indices('/') {
            jar.directory(&PACKAGE[..=end])?;
        }
        jar.deflated("BOOT-INF/classes/application.properties", b"server.port=8080\n")?;
        for number in 0..self.classes {
            let revision = if number == 0 { self.revision } else { 0 };
            let size = content.size(number, 500, 3500);
            content.seed(self.key.0, (u64::from(revision) << 32) | number);
            jar.deflated(&format!("{PACKAGE}Shop{number}.class"), &content.class(size))?;
        }
        jar.directory("BOOT-INF/lib/")?;
        let mut index = String::new();
        for number in 0..self.libraries {
            let name = format!("BOOT-INF/lib/library-{number}-1.{}.0.jar", number % 7);
            let library = library(&mut content, !self.key.0, number, self.library_bytes)?;
            jar.stored(&name, &library)?;
            index.push_str(&format!("- \"{name}\"\n"));
        }
        jar.deflated("BOOT-INF/classpath.idx", index.as_bytes())?;
        jar.deflated("BOOT-INF/layers.idx", LAYERS.as_bytes())?;
        jar.finish()?;
        Ok(())
    }
}

/// Makes a library: an archive of deflated classes of about 20 KiB. Its shape depends on its number
/// alone.
pub(super) fn library(
    content: &mut Content,
    seed: u64,
    number: u64,
    average_bytes: u64,
) -> io::Result<Vec<u8>> {
    let size = content.size(number, average_bytes / 2, average_bytes * 3 / 2);
    let mut jar = ZipWriter::new(Vec::with_capacity(size / 2));
    jar.directory("META-INF/")?;
    jar.deflated("META-INF/MANIFEST.MF", b"Manifest-Version: 1.0\r\n\r\n")?;
    jar.directory("library/")?;
    let (mut written, mut part) = (0, 0);
    while written < size {
        let class = content.size((number << 16) | part, 2_000, 38_000).min(size - written);
        content.seed(seed, (number << 16) | part);
        jar.deflated(&format!("library/Part{part}.class"), &content.class(class))?;
        (written, part) = (written + class, part + 1);
    }
    jar.finish()
}

#[cfg(test)]
mod tests {
    use slipway_proto::Digest;

    use super::*;

    fn small(key: Key) -> BootJar {
        let jar = BootJar::of_46_mb(key);
        BootJar { libraries: 3, library_bytes: 20_000, loader_classes: 2, classes: 4, ..jar }
    }

    fn bytes(jar: &BootJar) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app.jar");
        jar.write(&path).expect("it is written");
        std::fs::read(path).expect("it is there")
    }

    #[test]
    fn the_same_seed_makes_the_same_bytes_for_ever() {
        let jar = small(Key::new(1, "new", "queue", 1));
        let digest = Digest::of(&bytes(&jar)).to_string();
        assert_eq!(digest, Digest::of(&bytes(&jar)).to_string());
        assert_eq!(
            digest,
            "sha256:59c0a541bf85cd0ea8ab1102af69a9e37babfc78429742eaeef0fe90d9ee33ef"
        );
        let other = small(Key::new(1, "new", "queue", 2));
        assert_ne!(digest, Digest::of(&bytes(&other)).to_string());
    }

    #[test]
    fn a_changed_class_leaves_all_other_entries_as_they_were() {
        let jar = small(Key::new(1, "new", "queue", 1));
        let (before, after) = (bytes(&jar), bytes(&jar.with_one_class_changed()));
        let changed = format!("{PACKAGE}Shop0.class");
        let entries = |archive: &[u8]| entries(archive);
        let differing: Vec<String> = entries(&before)
            .into_iter()
            .zip(entries(&after))
            .filter(|(before, after)| before != after)
            .map(|((name, _), _)| name)
            .collect();
        assert_eq!(differing, [changed]);
    }

    /// Lists name and checksum of each entry, from the local headers.
    fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let (mut rest, mut entries) = (archive, Vec::new());
        while rest.starts_with(b"PK\x03\x04") {
            let long = |at: usize| {
                let bytes = rest[at..at + 4].try_into().expect("four bytes");
                usize::try_from(u32::from_le_bytes(bytes)).expect("it fits")
            };
            let name = 30 + usize::from(rest[26]) + usize::from(rest[27]) * 256;
            let end = name + long(18);
            let text = String::from_utf8(rest[30..name].to_vec()).expect("UTF-8");
            entries.push((text, rest[14..18].to_vec()));
            rest = &rest[end..];
        }
        entries
    }
}
