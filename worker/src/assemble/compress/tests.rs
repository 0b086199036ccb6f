// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Part {
    Bytes(Vec<u8>),
    Range(u64, u64),
    Reader(Vec<u8>),
}

fn artifact(bytes: &[u8]) -> (tempfile::TempDir, Arc<FileSource>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("artifact");
    std::fs::write(&path, bytes).expect("it can be written");
    let source = FileSource::open(&path).expect("it opens");
    (directory, Arc::new(source))
}

/// Passes parts to a sink and returns them joined.
fn pass(sink: &mut dyn TarSink, parts: &[Part], bytes: &[u8], split: usize) -> Vec<u8> {
    let mut expected = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(input) => {
                input.chunks(split).for_each(|chunk| sink.write(chunk).expect("it writes"));
                expected.extend_from_slice(input);
            }
            Part::Range(offset, length) => {
                let range = &bytes[usize::try_from(*offset).expect("small")..]
                    [..usize::try_from(*length).expect("small")];
                let checksum = sink.range(*offset, *length).expect("it stores");
                assert_eq!(checksum, crc32fast::hash(range));
                expected.extend_from_slice(range);
            }
            Part::Reader(input) => {
                sink.reader(&mut input.as_slice()).expect("it stores");
                expected.extend_from_slice(input);
            }
        }
    }
    expected
}

const HERE: Digesting = Digesting::Here(Digests::All);
const ELSEWHERE: Digesting = Digesting::Elsewhere(Digests::All);

fn write(
    compression: Compression,
    digesting: Digesting,
    parts: &[Part],
    bytes: &[u8],
    split: usize,
) -> (Compressed, Vec<u8>) {
    let (directory, source) = artifact(bytes);
    let liveness = Liveness::default();
    let mut writer = LayerWriter::new(compression, &source, directory.path(), digesting, &liveness)
        .expect("it starts");
    let expected = pass(writer.sink(), parts, bytes, split);
    (writer.finish().expect("it finishes"), expected)
}

fn bytes_from(compressed: &Compressed, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    compressed.content.reader_from(offset).read_to_end(&mut bytes).expect("it reads");
    bytes
}

fn unpack(compression: Compression, stored: &[u8]) -> Vec<u8> {
    let mut unpacked = Vec::new();
    match compression {
        Compression::Gzip => {
            let mut decoder = flate2::bufread::GzDecoder::new(stored);
            decoder.read_to_end(&mut unpacked).expect("it unpacks");
            assert!(decoder.into_inner().is_empty(), "one member");
        }
        Compression::Zstd => {
            let mut decoder =
                ::zstd::Decoder::with_buffer(stored).expect("it starts").single_frame();
            decoder.read_to_end(&mut unpacked).expect("it unpacks");
            assert!(decoder.finish().is_empty(), "one frame");
        }
        Compression::None => unpacked.extend_from_slice(stored),
    }
    unpacked
}

fn any_part(length: u64) -> impl Strategy<Value = Part> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..5000).prop_map(Part::Bytes),
        (0u8..4, 0usize..700_000).prop_map(|(byte, length)| Part::Bytes(vec![byte; length])),
        (0..length, 0..length).prop_map(move |(a, b)| Part::Range(a.min(b), a.abs_diff(b))),
        proptest::collection::vec(any::<u8>(), 0..5000).prop_map(Part::Reader),
    ]
}

fn any_compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(Compression::ALL.map(|(compression, _)| compression).to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Bytes written and stored in any order unpack to the same bytes, with the reported digests,
    /// as one member or frame, independent of how the input was cut, of the thread that digests it,
    /// and of where reading starts.
    #[test]
    fn what_is_written_unpacks_to_itself(
        compression in any_compression(),
        parts in proptest::collection::vec(any_part(300_000), 0..12),
        split in 1usize..9000,
        from in 0u64..1_000_000,
    ) {
        let bytes: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).take(300_000).collect();
        let (made, expected) = write(compression, HERE, &parts, &bytes, split);
        let stored = bytes_from(&made, 0);
        prop_assert_eq!(stored.len() as u64, made.size);
        prop_assert_eq!(made.content.size(), made.size);
        prop_assert_eq!(Digest::of(&stored), made.digest);
        let passed = Passed {
            diff_id: Some(Digest::of(&expected)),
            fingerprint: Some(blake3::hash(&expected)),
            crc32: crc32fast::hash(&expected),
            length: expected.len() as u64,
        };
        prop_assert_eq!(made.passed, passed);
        prop_assert!(unpack(compression, &stored) == expected);
        let start = usize::try_from(from).expect("small").min(stored.len());
        prop_assert!(bytes_from(&made, from) == stored[start..], "from {}", from);
        let (again, _) = write(compression, ELSEWHERE, &parts, &bytes, 4096);
        prop_assert_eq!((again.digest, again.passed), (made.digest, passed));
        if compression != Compression::None {
            let (third, _) = write(compression, Digesting::No, &parts, &bytes, 1000);
            let unknown = Passed { diff_id: None, fingerprint: None, ..passed };
            prop_assert_eq!((third.digest, third.passed), (made.digest, unknown));
        }
        let (_directory, source) = artifact(&bytes);
        let short = Passed { diff_id: None, ..passed };
        for (digesting, passed) in [
            (HERE, passed),
            (ELSEWHERE, passed),
            (Digesting::Here(Digests::Fingerprint), short),
            (Digesting::Elsewhere(Digests::Fingerprint), short),
        ] {
            let mut thin = DigestOnly::new(&source, digesting, &Liveness::default());
            pass(&mut thin, &parts, &bytes, split);
            prop_assert_eq!(thin.finish().expect("it finishes"), passed);
        }
    }
}

/// Golden digests: an image must not depend on the version that built it. If this fails, perhaps
/// after a library update, the change needs a new assembly version.
#[test]
fn layers_have_the_digests_they_always_had() {
    let bytes: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let text: Vec<u8> = (0..500_000u32).flat_map(|n| (n / 9).to_string().into_bytes()).collect();
    let parts = [Part::Bytes(text.clone()), Part::Range(99, 900_000), Part::Reader(text)];
    let digests = Compression::ALL.map(|(compression, name)| {
        let (made, _) = write(compression, HERE, &parts, &bytes, 4096);
        format!("{name} {} {}", made.digest.hex(), made.size)
    });
    let expected = [
        "gzip 49ec8721be94f7cc962f38112018fc4ca37d1a1982d5ceeb54d973f0c5db613a 3431516",
        "zstd e7b837ea0de76d02a6f984c21da0012f77b0d73f5b8339874d2fd90ad24d9a38 684908",
        "none 1729e3d5ce2f67ce588630ee078a6ad4b456f1811415c9ddf5e471861454dce6 5700020",
    ];
    assert_eq!(digests, expected);
}

#[tokio::test]
async fn a_stream_from_anywhere_is_the_rest_in_large_chunks() {
    use futures::TryStreamExt as _;

    let bytes: Vec<u8> = (0..400_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let parts =
        [Part::Bytes(vec![1; 100]), Part::Range(10, 1_500_000), Part::Bytes(vec![2; 400_000])];
    let (made, _) = write(Compression::Gzip, HERE, &parts, &bytes, 1000);
    let stored = bytes_from(&made, 0);
    let content = Arc::new(made.content);
    // Before and after the start of a block, in its header, at the end and past it.
    for from in [0, 65_600, 65_637, 1_000_000, stored.len() - 1, stored.len(), stored.len() + 9] {
        let chunks: Vec<bytes::Bytes> =
            content.stream_from(from as u64).try_collect().await.expect("it reads");
        assert!(chunks.concat() == stored[from.min(stored.len())..], "from {from}");
        let short = chunks.iter().rev().skip(1).filter(|chunk| chunk.len() < 256 * 1024).count();
        assert_eq!(short, 0, "from {from}");
    }
}

#[test]
fn a_build_that_is_over_stops_whatever_is_written() {
    let bytes = vec![7; 1000];
    let (directory, source) = artifact(&bytes);
    for (compression, _) in Compression::ALL {
        let liveness = Liveness::default();
        let mut writer =
            LayerWriter::new(compression, &source, directory.path(), ELSEWHERE, &liveness)
                .expect("it starts");
        writer.sink().range(0, 1000).expect("it goes on");
        liveness.stop();
        assert!(writer.sink().range(0, 1000).is_err());
        assert!(writer.sink().write(b"x").is_err());
        assert!(writer.sink().reader(&mut &b"x"[..]).is_err());
    }
}
