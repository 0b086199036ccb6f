// SPDX-License-Identifier: Apache-2.0

//! Archives that are read, and one that is refused for each rule.

use crate::bundle::{Bundle, Node, Tree};
use crate::invalid::{Code, InspectError};
use crate::testing::tar::{TarEntry, extended, file, gzip, record, special, tar};

fn open(bytes: &[u8]) -> Result<Tree, InspectError> {
    Bundle::open(&bytes, &std::env::temp_dir()).map(|bundle| bundle.tree().clone())
}

fn read(entries: impl IntoIterator<Item = TarEntry>) -> Tree {
    open(&tar(entries)).expect("it is read")
}

fn refusal_of(bytes: &[u8]) -> (Code, String) {
    match open(bytes) {
        Err(InspectError::Invalid(invalid)) => (invalid.code, invalid.message),
        Err(InspectError::Read(error)) => panic!("{error}"),
        Ok(tree) => panic!("it was accepted: {tree:?}"),
    }
}

fn refusal(entries: impl IntoIterator<Item = TarEntry>) -> Code {
    refusal_of(&tar(entries)).0
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.nodes().keys().map(String::as_str).collect()
}

#[test]
fn a_file_has_its_range_its_time_and_whether_it_is_executable() {
    let tool = TarEntry { mode: 0o755, ..file("bin/tool", b"12345") };
    let bytes = tar([file("a", b"x"), tool]);
    let bundle = Bundle::open(&bytes, &std::env::temp_dir()).expect("it is read");
    let files = bundle.files(&bytes);
    let tool = bundle.tree().file("bin/tool").expect("it is there");
    assert_eq!((tool.size, tool.is_executable, tool.modified), (5, true, Some(1_700_000_000)));
    assert_eq!(files.start(tool, 100).expect("it is read"), b"12345");
    assert!(!bundle.tree().file("a").expect("it is there").is_executable);
    assert!(bundle.unpacked().is_none(), "a plain archive is read where it lies");
}

#[test]
fn long_names_are_read_in_the_forms_of_pax_gnu_and_ustar() {
    let long = format!("a/{}/{}", "b".repeat(120), "c".repeat(150));
    let pax = [extended(b'x', &record("path", &long)), file("short", b"1"), file("z", b"")];
    let gnu = [
        TarEntry { magic: *b"ustar  \0", ..extended(b'L', format!("{long}\0").as_bytes()) },
        TarEntry { magic: *b"ustar  \0", ..file("short", b"1") },
        file("z", b""),
    ];
    assert_eq!(paths(&read(pax)), [&long, "z"]);
    assert_eq!(paths(&read(gnu)), [&long, "z"]);
    let target = format!("{}x", "./".repeat(80));
    let link =
        [extended(b'x', &record("linkpath", &target)), special("l", b'2', "?"), file("x", b"")];
    assert_eq!(read(link).nodes().get("l"), Some(&Node::Link(target.clone())));
    let link = [extended(b'K', target.as_bytes()), special("l", b'2', "?"), file("x", b"")];
    assert_eq!(read(link).nodes().get("l"), Some(&Node::Link(target)));
}

#[test]
fn times_and_sizes_of_pax_count() {
    let records = [record("mtime", "1600000000.75"), record("size", "3")].concat();
    let entries =
        [extended(b'x', &records), TarEntry { size: 0, ..file("a", b"abc") }, file("b", b"")];
    let tree = read(entries);
    let a = tree.file("a").expect("it is there");
    assert_eq!((a.size, a.modified), (3, Some(1_600_000_000)));
}

#[test]
fn a_directory_at_the_top_is_left_out_unless_the_root_is_in_the_archive() {
    let stripped = read([special("app-1/", b'5', ""), file("app-1/bin/x", b"1")]);
    assert_eq!((paths(&stripped), stripped.directory()), (vec!["bin/x"], Some("app-1")));
    let implied = read([file("app-1/bin/x", b"1"), file("app-1/y", b"1")]);
    assert_eq!(paths(&implied), ["bin/x", "y"]);
    for root in ["./", "."] {
        let whole = read([special(root, b'5', ""), file("./bin/x", b"1")]);
        assert_eq!((paths(&whole), whole.directory()), (vec!["bin/x"], None), "{root}");
    }
    assert_eq!(paths(&read([file("a/x", b""), file("b/x", b"")])), ["a/x", "b/x"]);
    assert_eq!(paths(&read([file("tool", b"")])), ["tool"]);
    assert_eq!(paths(&read([file("bin/tool", b"")])), ["bin/tool"], "it is not its name");
}

#[test]
fn a_hard_link_is_the_file_that_it_names() {
    let tree = read([file("a", b"12"), special("d/b", b'1', "a"), special("c", b'1', "./d/b")]);
    assert_eq!(tree.file("a"), tree.file("d/b"));
    assert_eq!(tree.file("a"), tree.file("c"));
    for target in ["/etc/passwd", "../a", "later", "d", "", "self"] {
        let entries = [special("d/", b'5', ""), special("self", b'1', target), file("later", b"")];
        assert_eq!(refusal(entries), Code::UnsupportedEntry, "{target}");
    }
}

#[test]
fn a_symbolic_link_is_kept_inside_and_refused_outside() {
    let tree = read([file("lib/a-1.so", b"1"), special("lib/a.so", b'2', "a-1.so")]);
    assert!(tree.file("a.so").is_some(), "the directory at the top is left out");
    for target in ["/etc/passwd", "../../x", "../x/.."] {
        let entries = [file("d/a", b""), special("d/l", b'2', target), file("x", b"")];
        let expected = if target == "../x/.." { None } else { Some(Code::UnsafePath) };
        let found = match open(&tar(entries)) {
            Err(InspectError::Invalid(invalid)) => Some(invalid.code),
            _ => None,
        };
        assert_eq!(found, expected, "{target}");
    }
    // Below a link, a file would be written to where the link leads.
    let through = [special("l", b'2', "d"), file("l/x", b"1"), file("d/y", b"")];
    assert_eq!(refusal(through), Code::DuplicateEntry);
    assert_eq!(refusal([special("l", b'2', ""), file("x", b"")]), Code::CorruptArchive);
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    for name in ["/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\\b", "C:/x", ""] {
        assert_eq!(refusal([file("z", b""), file(name, b"1")]), Code::UnsafePath, "{name}");
    }
    let latin = TarEntry { name: b"M\xfcll".to_vec(), ..file("", b"1") };
    assert_eq!(refusal([latin]), Code::UnsafePath);
    let nul = [extended(b'x', &record("path", "a\0b")), file("x", b"1")];
    assert_eq!(refusal(nul), Code::UnsafePath);
}

#[test]
fn what_is_neither_file_nor_directory_nor_link_is_refused_by_name() {
    for (flag, what) in [
        (b'3', "a device"),
        (b'4', "a device"),
        (b'6', "a named pipe"),
        (b'S', "a sparse file"),
        (b'M', "several volumes"),
        (b'V', "several volumes"),
        (b'D', "incremental backup"),
        (b'Z', "unknown type"),
    ] {
        let (code, message) = refusal_of(&tar([file("a", b"1"), special("odd", flag, "")]));
        assert_eq!(code, Code::UnsupportedEntry);
        assert!(message.contains("`odd`") && message.contains(what), "{message}");
    }
    let sparse = [extended(b'x', &record("GNU.sparse.major", "1")), file("a", b"1")];
    assert_eq!(refusal(sparse), Code::UnsupportedEntry);
}

#[test]
fn a_path_that_is_there_twice_is_refused_unless_both_are_the_same() {
    let same =
        [file("a", b"12"), special("d/", b'5', ""), file("a", b"12"), special("d", b'5', "")];
    assert_eq!(paths(&read(same)), ["a", "d"]);
    let executable = TarEntry { mode: 0o755, ..file("a", b"12") };
    for other in [file("a", b"13"), file("a", b"1"), special("a", b'5', ""), executable] {
        assert_eq!(refusal([file("a", b"12"), other, file("z", b"")]), Code::DuplicateEntry);
    }
    for pair in [["a", "a/b"], ["a/b", "a"], ["a/b", "./a"]] {
        let entries = pair.map(|name| file(name, b"1"));
        assert_eq!(refusal(entries.into_iter().chain([file("a!", b"")])), Code::DuplicateEntry);
    }
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let wrong_sum = TarEntry { checksum: Some(1), ..file("b", b"1") };
    assert_eq!(refusal([file("a", b""), wrong_sum]), Code::CorruptArchive);
    let magic = TarEntry { magic: *b"ustar\x0009", ..file("b", b"1") };
    assert_eq!(refusal([file("a", b""), magic]), Code::CorruptArchive);
    let content = TarEntry { flag: b'5', ..file("d", b"1") };
    assert_eq!(refusal([content, file("a", b"")]), Code::CorruptArchive);
    let path = || extended(b'x', &record("path", "p"));
    assert_eq!(refusal([path(), path(), file("a", b"")]), Code::CorruptArchive);
    assert_eq!(refusal([path(), extended(b'L', b"q\0"), file("a", b"")]), Code::CorruptArchive);
    let twice = [extended(b'L', b"q\0"), extended(b'L', b"q\0"), file("a", b"")];
    assert_eq!(refusal(twice), Code::CorruptArchive);
    let global = [extended(b'g', &record("path", "p")), file("a", b"")];
    assert_eq!(refusal(global), Code::CorruptArchive);
    let comment = [extended(b'g', &record("comment", "1f2e")), file("a", b"")];
    assert_eq!(paths(&read(comment)), ["a"], "as `git archive` writes it");
    let long = [TarEntry { size: 2 << 20, ..extended(b'x', &vec![0; 2 << 20]) }, file("a", b"")];
    assert_eq!(refusal(long), Code::CorruptArchive);
}

#[test]
fn an_archive_that_is_cut_short_is_refused() {
    let whole = tar([file("a", &[1; 2000]), file("b", b"")]);
    for length in [513, 1024, 2560, 3072, 3500] {
        assert_eq!(refusal_of(&whole[..length]).0, Code::Truncated, "{length}");
    }
    let huge = TarEntry { size: 0o777_7777_7777, ..file("a", b"1") };
    assert_eq!(refusal([huge]), Code::Truncated);
    let pending = tar([file("a", b""), extended(b'L', b"name\0")]);
    assert_eq!(refusal_of(&pending).0, Code::Truncated);
    let packed = gzip(&whole);
    assert_eq!(refusal_of(&packed[..packed.len() - 20]).0, Code::Truncated);
}

#[test]
fn only_zeros_follow_the_end() {
    let mut bytes = tar([file("a", b"1")]);
    bytes.resize(10 << 10, 0);
    assert!(open(&bytes).is_ok(), "GNU tar fills its records");
    bytes.extend(tar([file("a", b"2")]));
    assert_eq!(refusal_of(&bytes).0, Code::CorruptArchive);
}

#[test]
fn what_is_packed_is_read_as_what_is_not_and_no_bomb_is_unpacked() {
    let plain = tar([file("d/a", b"1"), special("d/l", b'2', "a")]);
    assert_eq!(open(&gzip(&plain)).expect("it is read"), open(&plain).expect("it is read"));
    // Two members, as parallel compressors write them.
    let members = [gzip(&plain[..700]), gzip(&plain[700..])].concat();
    assert!(open(&members).is_ok());
    let start = tar([TarEntry { size: 260 << 20, ..file("zeros", b"") }]);
    let zeros = gzip(&vec![0; 1 << 20]).repeat(260);
    let bomb = [gzip(&start[..512]), zeros].concat();
    assert_eq!(refusal_of(&bomb).0, Code::ArchiveBomb);
    let (code, message) = refusal_of(&gzip(&[b'x'; 4000]));
    assert_eq!(code, Code::NotAnArtifact);
    assert!(message.contains("no tar archive"), "{message}");
    let mut corrupt = gzip(&plain);
    let checksum = corrupt.len() - 6;
    corrupt[checksum] ^= 0xff;
    assert_eq!(refusal_of(&corrupt).0, Code::CorruptArchive);
}

#[test]
fn names_of_one_file_do_not_multiply_it() {
    let links = (0..600).map(|number| special(&format!("l{number}"), b'1', "a"));
    let entries = [file("a", &vec![7; 1 << 20])].into_iter().chain(links);
    assert_eq!(refusal(entries), Code::ArchiveBomb);
}

#[test]
fn too_many_entries_are_refused() {
    let many = (0..=200_000).map(|number| file(&format!("{number:x}"), b""));
    assert_eq!(refusal(many), Code::TooManyEntries);
    let long = "x".repeat(4000);
    let named = (0..9000).flat_map(|number| {
        let name = format!("{number}{long}");
        [extended(b'x', &record("path", &name)), file("x", b"")]
    });
    assert_eq!(refusal(named), Code::TooManyEntries);
}

#[test]
fn an_archive_without_a_file_is_refused() {
    assert_eq!(refusal([special("d/", b'5', "")]), Code::NotAnArtifact);
}
