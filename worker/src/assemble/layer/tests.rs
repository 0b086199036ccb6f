// SPDX-License-Identifier: Apache-2.0

use std::io::{Read as _, Write as _};
use std::path::Path;

use slipway_artifact::zip::Archive;

use super::*;
use crate::assemble::{Progress, make_layers};
use crate::failure::StageError;

/// A place to make layers in, with records.
struct Fixture {
    directory: tempfile::TempDir,
    context: LayerContext,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let context = LayerContext {
            scratch: directory.path().to_owned(),
            records: LayerRecords::open(directory.path()).expect("it opens"),
            epoch: 1,
            liveness: Liveness::default(),
        };
        Self { directory, context }
    }

    fn file(&self, bytes: &[u8]) -> Arc<FileSource> {
        let path = self.directory.path().join("artifact");
        // Under a new inode: a reader that has the old file open keeps it.
        let _none = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).expect("it can be written");
        Arc::new(FileSource::open(&path).expect("it opens"))
    }

    fn source(&self, bytes: &[u8], compression: Compression) -> LayerSource {
        LayerSource { artifact: self.file(bytes), digest: Some(Digest::of(bytes)), compression }
    }

    fn layers(&self, source: &LayerSource) -> Result<Vec<Arc<Layer>>, AssembleError> {
        make_layers(plan(&source.artifact), source, &self.context, &Told::default())
    }

    fn remembered_layers(&self, source: &LayerSource) -> Vec<Arc<Layer>> {
        let layers = self.layers(source).expect("they are made");
        remember(&layers, source);
        layers
    }
}

/// Records the calls.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Progress for Told {
    fn made(&self, layer: &Arc<Layer>) {
        self.0.lock().expect("alive").push(layer.title.clone());
    }

    fn leaves_a_processor(&self) {
        self.0.lock().expect("alive").push("a processor".to_owned());
    }
}

fn remember(layers: &[Arc<Layer>], source: &LayerSource) {
    let digest = source.digest.expect("it is known");
    layers.iter().for_each(|layer| layer.remember(digest));
}

/// Two layers: the files below `lib/`, and the rest.
fn plan(artifact: &Arc<FileSource>) -> Vec<PlannedLayer> {
    let archive = Arc::new(Archive::read(&**artifact).expect("an archive"));
    let mut layers =
        ["libraries", "classes"].map(|title| PlannedLayer::new(title, Some(&archive), (7, 8)));
    for entry in archive.entries() {
        let layer = &mut layers[usize::from(!entry.name.starts_with("lib/"))];
        let data = Data::Entry(entry.clone());
        layer.add(format!("app/{}", entry.name), Node::file(0o644, data));
    }
    layers.into()
}

/// An archive of files, those whose name ends in `.jar` stored and the others deflated.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let (method, data) = if Path::new(name).extension().is_some_and(|end| end == "jar") {
            (0u16, content.to_vec())
        } else {
            let level = flate2::Compression::new(6);
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(content).expect("writing to memory");
            (8, encoder.finish().expect("writing to memory"))
        };
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).expect("small").to_le_bytes();
        let length = u16::try_from(name.len()).expect("short").to_le_bytes();
        let mut facts = vec![20, 0, 0, 0];
        facts.extend_from_slice(&method.to_le_bytes());
        facts.extend_from_slice(&[0; 4]);
        facts.extend_from_slice(&crc32fast::hash(content).to_le_bytes());
        facts.extend_from_slice(&size(&data));
        facts.extend_from_slice(&size(content));
        facts.extend_from_slice(&length);
        facts.extend_from_slice(&[0; 2]);
        let offset = size(&bytes);
        directory.extend_from_slice(b"PK\x01\x02\x14\0");
        directory.extend_from_slice(&facts);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset);
        directory.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b"PK\x03\x04");
        bytes.extend_from_slice(&facts);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&data);
    }
    let count = u16::try_from(files.len()).expect("few").to_le_bytes();
    let number = |number: usize| u32::try_from(number).expect("small").to_le_bytes();
    let end = [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &number(directory.len())].concat();
    let end = [&end, &number(bytes.len())[..], &[0; 2]].concat();
    [bytes, directory, end].concat()
}

/// Bytes that do not compress, as a nested archive's.
fn nested(length: u32) -> Vec<u8> {
    let noise = (0..length).map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()[3]);
    b"PK\x03\x04".iter().copied().chain(noise).collect()
}

/// Bytes that do, as a class file's.
fn class(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n / 7).wrapping_mul(0x9e37_79b1).to_le_bytes()[3] & 15).collect()
}

fn descriptors(layers: &[Arc<Layer>]) -> Vec<(Digest, Digest, u64)> {
    layers.iter().map(|layer| (layer.diff_id, layer.digest, layer.size)).collect()
}

fn stored_bytes(layer: &Layer) -> Vec<u8> {
    let mut bytes = Vec::new();
    let content = layer.content_blocking().expect("it is made");
    content.reader_from(0).read_to_end(&mut bytes).expect("it reads");
    bytes
}

#[test]
fn a_layer_that_was_made_before_is_found_without_a_byte_of_content() {
    let (jar, class) = (nested(3_000_000), class(2_000_000));
    let bytes = archive(&[("lib/a.jar", &jar), ("Main.class", &class)]);
    for (compression, _) in Compression::ALL {
        let fixture = Fixture::new();
        let source = fixture.source(&bytes, compression);
        let first = fixture.layers(&source).expect("they are made");
        let again = fixture.layers(&source).expect("they are made");
        assert!(!again.iter().any(|layer| layer.is_known), "nothing was remembered");
        remember(&first, &source);
        // The list of entries is complete, but their content is gone.
        let mut hollow = bytes.clone();
        let end = bytes.len() - 200;
        hollow[..end].fill(0);
        let artifact = fixture.file(&hollow);
        let known = fixture.layers(&LayerSource { artifact, ..source }).expect("they are known");
        assert!(known.iter().all(|layer| layer.is_known));
        assert_eq!(descriptors(&known), descriptors(&first));
        let error = known[0].content_blocking().expect_err("there are no bytes");
        assert!(matches!(error, AssembleError::Artifact(_)), "{error}");
    }
}

#[test]
fn a_layer_is_known_again_before_the_artifact_has_a_digest() {
    let fixture = Fixture::new();
    let bytes = archive(&[("lib/a.jar", &nested(3_000_000)), ("Main.class", &class(1000))]);
    let source = fixture.source(&bytes, Compression::Gzip);
    let nameless = LayerSource { digest: None, ..source.clone() };
    let first = fixture.layers(&nameless).expect("they are made");
    assert!(!first.iter().any(|layer| layer.is_known));
    remember(&first, &source);
    for source in [source, nameless] {
        let again = fixture.layers(&source).expect("they are known");
        assert!(again.iter().all(|layer| layer.is_known));
        let by_part = again.iter().all(|layer| layer.is_recorded);
        assert_eq!(by_part, source.digest.is_some());
        assert_eq!(descriptors(&again), descriptors(&first));
    }
}

#[test]
fn a_changed_class_leaves_the_layer_of_the_libraries() {
    let jar = nested(3_000_000);
    // Few classes are deflated on one thread, many on two.
    for length in [1000, 2_000_000] {
        for (compression, _) in Compression::ALL {
            let fixture = Fixture::new();
            let of = |class: &[u8]| {
                let bytes = archive(&[("lib/a.jar", &jar), ("Main.class", class)]);
                fixture.remembered_layers(&fixture.source(&bytes, compression))
            };
            let first = of(&class(length));
            let second = of(&class(length + 1));
            assert_eq!(first[0].digest, second[0].digest);
            assert_ne!(first[1].digest, second[1].digest);
            let known = |layers: &[Arc<Layer>]| [layers[0].is_known, layers[1].is_known];
            assert_eq!((known(&first), known(&second)), ([false, false], [true, false]));
            let bytes = stored_bytes(&second[0]);
            assert_eq!(Digest::of(&bytes), first[0].digest, "made from the second artifact");
        }
    }
}

/// Changes bytes so that their CRC-32 stays: by a multiple of its polynomial, bit by bit in the
/// order in which the checksum takes them.
fn forge(bytes: &mut [u8]) {
    const POLYNOMIAL: u64 = 0x1_04c1_1db7;
    for bit in (0..33).filter(|bit| POLYNOMIAL >> (32 - bit) & 1 == 1) {
        bytes[1000 + bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn files_that_the_directory_of_the_artifact_describes_alike_are_told_apart() {
    let (jar, class) = (nested(3_000_000), class(2_000_000));
    let mut forged = jar.clone();
    forge(&mut forged);
    assert_eq!(crc32fast::hash(&jar), crc32fast::hash(&forged));
    let of = |jar: &[u8]| archive(&[("lib/a.jar", jar), ("Main.class", &class)]);
    for (compression, _) in Compression::ALL {
        let fixture = Fixture::new();
        let truth = fixture.remembered_layers(&fixture.source(&of(&jar), compression));
        let layers = fixture.remembered_layers(&fixture.source(&of(&forged), compression));
        assert_eq!([layers[0].is_known, layers[1].is_known], [false, true]);
        assert_ne!(layers[0].diff_id, truth[0].diff_id);
        assert_eq!(Digest::of(&stored_bytes(&layers[0])), layers[0].digest);
        let elsewhere = Fixture::new();
        let alone = elsewhere.layers(&elsewhere.source(&of(&forged), compression));
        assert_eq!(descriptors(&layers), descriptors(&alone.expect("they are made")));
    }
}

#[test]
fn what_is_sent_longest_is_there_first() {
    let fixture = Fixture::new();
    let bytes = archive(&[("lib/a.class", &class(500_000)), ("a.jar", &nested(3_000_000))]);
    let source = fixture.source(&bytes, Compression::Gzip);
    let told = Told::default();
    let layers = make_layers(plan(&source.artifact), &source, &fixture.context, &told);
    let titles: Vec<_> = layers.expect("they are made").iter().map(|l| l.title.clone()).collect();
    assert_eq!(titles, ["libraries", "classes"]);
    assert_eq!(*told.0.lock().expect("alive"), ["classes", "a processor", "libraries"]);
}

#[test]
fn whatever_the_compression_the_layers_unpack_to_the_same() {
    let bytes = archive(&[("lib/a.jar", &nested(3_000_000)), ("Main.class", &class(2_000_000))]);
    let mut diff_ids = Vec::new();
    for (compression, _) in Compression::ALL {
        let fixture = Fixture::new();
        let layers = fixture.remembered_layers(&fixture.source(&bytes, compression));
        for layer in &layers {
            assert_eq!(layer.media_type, compression.media_type());
            let stored = stored_bytes(layer);
            assert_eq!((Digest::of(&stored), stored.len() as u64), (layer.digest, layer.size));
            let mut plain = Vec::new();
            let read = match compression {
                Compression::Gzip => flate2::read::GzDecoder::new(&*stored).read_to_end(&mut plain),
                Compression::Zstd => {
                    zstd::Decoder::new(&*stored).expect("it starts").read_to_end(&mut plain)
                }
                Compression::None => (&*stored).read_to_end(&mut plain),
            };
            read.expect("it unpacks");
            assert_eq!(Digest::of(&plain), layer.diff_id);
        }
        diff_ids.push(layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>());
    }
    assert!(diff_ids.iter().all(|ids| ids == &diff_ids[0]), "{diff_ids:?}");
}

#[test]
fn one_thread_or_two_make_the_same_layer() {
    let fixture = Fixture::new();
    let bytes = archive(&[("lib/a.jar", &nested(3_000_000)), ("Main.class", &class(2_000_000))]);
    for compression in [Compression::Gzip, Compression::Zstd] {
        let source = fixture.source(&bytes, compression);
        let made = fixture.layers(&source).expect("they are made");
        for (planned, made) in plan(&source.artifact).iter().zip(made) {
            for digesting in [Digesting::Here(Digests::All), Digesting::Elsewhere(Digests::All)] {
                let written = write(planned, &source, &fixture.context, digesting);
                let written = written.expect("it is written");
                assert_eq!((written.digest, written.size), (made.digest, made.size));
                assert_eq!(written.passed.diff_id, Some(made.diff_id));
            }
        }
    }
}

#[tokio::test]
async fn a_record_that_lies_is_noticed_and_forgotten() {
    let fixture = Fixture::new();
    let bytes = archive(&[("lib/a.jar", &nested(1000)), ("Main.class", &class(1000))]);
    let source = fixture.source(&bytes, Compression::Gzip);
    let [truth, _] =
        <[Arc<Layer>; 2]>::try_from(fixture.layers(&source).expect("made")).expect("two");
    let (archive, diff_id, size) = (truth.origin.record.archive, truth.diff_id, truth.size);
    let lie = LayerRecord { archive, diff_id, digest: Digest::of(b"something else"), size };
    for key in truth.origin.keys() {
        fixture.context.records.remember(key, lie);
    }
    let layers = fixture.layers(&source).expect("they are made");
    assert_eq!((layers[0].is_known, layers[0].digest), (true, lie.digest));
    let error = layers[0].content().await.expect_err("it comes out otherwise");
    assert!(matches!(error, AssembleError::Record { .. }), "{error}");
    assert!(StageError::from(error).transient);
    let layers = fixture.layers(&source).expect("they are made");
    assert_eq!((layers[0].is_known, layers[0].digest), (false, truth.digest));
}

#[tokio::test]
async fn bytes_that_are_asked_for_at_once_are_made_once() {
    let fixture = Fixture::new();
    let bytes = archive(&[("lib/a.jar", &nested(3_000_000))]);
    let source = fixture.source(&bytes, Compression::Gzip);
    fixture.remembered_layers(&source);
    let layers = fixture.layers(&source).expect("they are known");
    let (one, other) = tokio::join!(layers[0].content(), layers[0].content());
    assert!(Arc::ptr_eq(&one.expect("made"), &other.expect("made")));
}

#[test]
fn a_corrupt_entry_is_the_failure_however_the_layer_is_made() {
    let jar = nested(3_000_000);
    for (compression, _) in Compression::ALL {
        let fixture = Fixture::new();
        let mut bytes = archive(&[("lib/a.jar", &jar), ("Main.class", &class(1000))]);
        bytes[1_000_000] ^= 1;
        let error = fixture.layers(&fixture.source(&bytes, compression)).expect_err("corrupt");
        assert!(matches!(&error, AssembleError::Artifact(why) if why.contains("lib/a.jar")));
    }
}

#[test]
fn a_build_that_is_over_makes_no_layers() {
    let fixture = Fixture::new();
    let bytes = archive(&[("lib/a.jar", &nested(3_000_000)), ("Main.class", &class(2_000_000))]);
    fixture.context.liveness.stop();
    for (compression, _) in Compression::ALL {
        let error = fixture.layers(&fixture.source(&bytes, compression)).expect_err("it is over");
        assert!(StageError::from(&error).transient, "{error}");
    }
}
