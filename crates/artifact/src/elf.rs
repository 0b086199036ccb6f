// SPDX-License-Identifier: Apache-2.0

//! An ELF executable: the processor it is for and the interpreter it needs.
//!
//! Written by hand because so little is needed, of files in both widths and both byte orders that
//! may be hostile: the header, the program headers, and two tags of the dynamic section. The kernel
//! judges everything else when it runs the file.

#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::io::{BufReader, Read as _};

use slipway_proto::artifact::ElfFacts;
use slipway_proto::platform::Architecture;

use crate::invalid::{Code, InspectError, quoted};
use crate::source::{Source, SourceReader};

/// The first bytes of every ELF file.
pub const MAGIC: &[u8; 4] = b"\x7fELF";

/// More program headers than this are refused; linkers write some ten.
const MOST_HEADERS: u16 = 256;
/// The longest path of an interpreter (`PATH_MAX`).
const LONGEST_INTERPRETER: u64 = 4096;
/// How many entries of a dynamic section are read; linkers write some thirty.
const MOST_DYNAMIC: u64 = 4096;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NULL: u64 = 0;
const DT_SONAME: u64 = 14;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
/// The flag by which a linker marks a position-independent executable.
const DF_1_PIE: u64 = 0x0800_0000;

fn unsupported(message: impl Into<String>) -> InspectError {
    InspectError::invalid(Code::UnsupportedExecutable, message)
}

fn truncated() -> InspectError {
    InspectError::invalid(
        Code::Truncated,
        "the executable is shorter than its own header says: it was cut short, upload it again",
    )
}

/// Reads what an ELF file needs to run.
///
/// # Errors
///
/// [`Code::UnsupportedExecutable`] for whatever is not an executable of a processor in
/// [`Architecture`], [`Code::Truncated`] where a part of it is missing.
pub fn inspect(source: &dyn Source) -> Result<ElfFacts, InspectError> {
    let header = Header::read(source)?;
    let architecture = header.architecture()?;
    match header.file_type {
        2 | 3 => {}
        1 => {
            return Err(unsupported(
                "this is an object file (.o): link it and upload the executable",
            ));
        }
        4 => return Err(unsupported("this is a core dump: upload the executable itself")),
        other => {
            return Err(unsupported(format!("this is an ELF file of the unknown type {other}")));
        }
    }
    let segments = header.segments(source)?;
    let mut interpreter = None;
    let mut shared_library = false;
    for segment in &segments {
        match segment.kind {
            PT_LOAD if segment.end().is_none_or(|end| end > source.len()) => {
                return Err(truncated());
            }
            PT_INTERP => interpreter = Some(read_interpreter(source, segment)?),
            PT_DYNAMIC => shared_library = header.is_library(source, segment)?,
            _ => {}
        }
    }
    // Old linkers gave shared libraries an entry point, and some libraries can be run.
    if interpreter.is_none() && header.file_type == 3 && (header.entry == 0 || shared_library) {
        return Err(unsupported(
            "this is a shared library (.so): upload the executable that uses it",
        ));
    }
    let entry = |segment: &Segment| {
        let size = segment.memory_size;
        segment.kind == PT_LOAD && header.entry.wrapping_sub(segment.address) < size
    };
    if !segments.iter().any(entry) {
        return Err(unsupported("the executable has no entry point: link it as a program"));
    }
    Ok(ElfFacts::new(architecture, interpreter.as_deref()))
}

fn read_interpreter(source: &dyn Source, segment: &Segment) -> Result<String, InspectError> {
    if segment.end().is_none_or(|end| end > source.len()) {
        return Err(truncated());
    }
    let mut bytes = Vec::new();
    let size = segment.file_size.min(LONGEST_INTERPRETER + 1);
    SourceReader::new(source, segment.offset, size).read_to_end(&mut bytes)?;
    let length = bytes.iter().position(|byte| *byte == 0);
    let path = length.and_then(|length| std::str::from_utf8(&bytes[..length]).ok());
    path.filter(|path| path.starts_with('/')).map(str::to_owned).ok_or_else(|| {
        let found = quoted(&String::from_utf8_lossy(&bytes));
        unsupported(format!("the executable's interpreter {found} is not an absolute path"))
    })
}

/// What the file header says, for both widths.
struct Header {
    wide: bool,
    big: bool,
    file_type: u64,
    machine: u64,
    entry: u64,
    headers_offset: u64,
    header_size: u64,
    header_count: u16,
}

struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

impl Segment {
    fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.file_size)
    }
}

impl Header {
    fn read(source: &dyn Source) -> Result<Self, InspectError> {
        let mut bytes = [0; 64];
        let length = usize::try_from(source.len().min(64)).expect("at most 64");
        source.read_exact_at(0, &mut bytes[..length])?;
        let (wide, big) = match (bytes[4], bytes[5]) {
            _ if length < 20 => return Err(truncated()),
            (1, 1) => (false, false),
            (1, 2) => (false, true),
            (2, 1) => (true, false),
            (2, 2) => (true, true),
            _ => return Err(unsupported("the ELF header names an unknown width or byte order")),
        };
        if length < if wide { 64 } else { 52 } {
            return Err(truncated());
        }
        let mut header = Self {
            wide,
            big,
            file_type: 0,
            machine: 0,
            entry: 0,
            headers_offset: 0,
            header_size: 0,
            header_count: 0,
        };
        header.file_type = header.number(&bytes, 16, 2);
        header.machine = header.number(&bytes, 18, 2);
        let word = header.word();
        header.entry = header.number(&bytes, 24, word);
        header.headers_offset = header.number(&bytes, 24 + word, word);
        // After the two offsets of tables come flags, then the header's own size.
        let sizes = 24 + 3 * word + 6;
        header.header_size = header.number(&bytes, sizes, 2);
        header.header_count = u16::try_from(header.number(&bytes, sizes + 2, 2)).expect("16 bits");
        // A linker writes the section headers last, so they are the best sign that the end is
        // missing.
        let sections_offset = header.number(&bytes, 24 + 2 * word, word);
        let sections = header.number(&bytes, sizes + 4, 2) * header.number(&bytes, sizes + 6, 2);
        if sections_offset.checked_add(sections).is_none_or(|end| end > source.len()) {
            return Err(truncated());
        }
        Ok(header)
    }

    fn word(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    /// Reads a number of `width` bytes in the file's byte order.
    fn number(&self, bytes: &[u8], at: usize, width: usize) -> u64 {
        let digits = bytes[at..at + width].iter().map(|byte| u64::from(*byte));
        let fold = |number: u64, digit: u64| number << 8 | digit;
        if self.big { digits.fold(0, fold) } else { digits.rev().fold(0, fold) }
    }

    /// Machine numbers are those of `e_machine` in the ELF specification.
    fn architecture(&self) -> Result<Architecture, InspectError> {
        Ok(match (self.machine, self.wide, self.big) {
            (3, false, false) => Architecture::I386,
            (22, true, true) => Architecture::S390x,
            (40, false, false) => Architecture::Arm,
            (62, true, false) => Architecture::Amd64,
            (21, true, false) => Architecture::Ppc64le,
            (183, true, false) => Architecture::Arm64,
            (243, true, false) => Architecture::Riscv64,
            (machine, wide, big) => {
                let known: Vec<&str> = Architecture::ALL.iter().map(|(_, name)| *name).collect();
                return Err(unsupported(format!(
                    "the executable is for machine {machine} ({} bits, {}-endian), and images are \
                    built for {}: compile it for one of them",
                    if wide { 64 } else { 32 },
                    if big { "big" } else { "little" },
                    known.join(", ")
                )));
            }
        })
    }

    fn segments(&self, source: &dyn Source) -> Result<Vec<Segment>, InspectError> {
        let size: usize = if self.wide { 56 } else { 32 };
        if self.header_count == 0 || self.header_size != size as u64 {
            return Err(unsupported("the executable has no program headers: link it as a program"));
        }
        if self.header_count > MOST_HEADERS {
            let message = format!("the executable has {} program headers", self.header_count);
            return Err(unsupported(format!("{message}, and at most {MOST_HEADERS} are read")));
        }
        let length = u64::from(self.header_count) * size as u64;
        let mut reader = SourceReader::new(source, self.headers_offset, length);
        if reader.remaining() < length {
            return Err(truncated());
        }
        let mut table = Vec::new();
        reader.read_to_end(&mut table)?;
        let word = self.word();
        let segment = |bytes: &[u8]| {
            // The wide form has its flags second, the narrow one near the end.
            let offset = if self.wide { 8 } else { 4 };
            Segment {
                kind: self.number(bytes, 0, 4),
                offset: self.number(bytes, offset, word),
                address: self.number(bytes, offset + word, word),
                file_size: self.number(bytes, offset + 3 * word, word),
                memory_size: self.number(bytes, offset + 4 * word, word),
            }
        };
        Ok(table.chunks_exact(size).map(segment).collect())
    }

    /// Returns whether the dynamic section is that of a library: it has a name for programs that
    /// link with it, and is not marked as an executable.
    fn is_library(&self, source: &dyn Source, segment: &Segment) -> Result<bool, InspectError> {
        if segment.end().is_none_or(|end| end > source.len()) {
            return Err(truncated());
        }
        let word = self.word();
        let size = segment.file_size.min(MOST_DYNAMIC * 2 * word as u64);
        let mut reader = BufReader::new(SourceReader::new(source, segment.offset, size));
        let (mut named, mut executable) = (false, false);
        let mut entry = [0; 16];
        for _ in 0..size / (2 * word as u64) {
            reader.read_exact(&mut entry[..2 * word])?;
            let value = self.number(&entry, word, word);
            match self.number(&entry, 0, word) {
                DT_NULL => break,
                DT_SONAME => named = true,
                DT_FLAGS_1 => executable = value & DF_1_PIE != 0,
                _ => {}
            }
        }
        Ok(named && !executable)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::TestElf;
    use super::*;

    #[track_caller]
    fn refused(elf: &TestElf, what: &str) {
        match inspect(&elf.bytes()) {
            Err(InspectError::Invalid(invalid)) => {
                assert_eq!(invalid.code, Code::UnsupportedExecutable, "{invalid}");
                assert!(invalid.message.contains(what), "{invalid}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn executables_of_every_processor_are_read() {
        let machines = [
            (Architecture::Amd64, 62, true, false),
            (Architecture::Arm64, 183, true, false),
            (Architecture::Arm, 40, false, false),
            (Architecture::I386, 3, false, false),
            (Architecture::Ppc64le, 21, true, false),
            (Architecture::Riscv64, 243, true, false),
            (Architecture::S390x, 22, true, true),
        ];
        for (architecture, machine, wide, big) in machines {
            let mut elf = TestElf::interpreted(b"/lib/ld.so\0");
            (elf.machine, elf.wide, elf.big) = (machine, wide, big);
            let facts = inspect(&elf.bytes()).expect("it is read");
            assert_eq!(facts, ElfFacts::new(architecture, Some("/lib/ld.so")), "{machine}");
            elf.segments.pop();
            elf.file_type = 2;
            assert_eq!(inspect(&elf.bytes()).expect("it is read").interpreter, None);
        }
    }

    #[test]
    fn the_executable_of_this_test_is_read() {
        let path = std::env::current_exe().expect("a path");
        let source = crate::FileSource::open(&path).expect("it is opened");
        let facts = inspect(&source).expect("it is read");
        assert_eq!(facts.architecture.as_str(), go_name(std::env::consts::ARCH));
        assert!(facts.interpreter.is_some_and(|path| path.contains("/ld-")));
    }

    fn go_name(arch: &str) -> &str {
        match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    #[test]
    fn a_machine_that_no_image_is_built_for_is_refused() {
        for (machine, wide, big) in [
            (8, false, true),
            (62, false, false),
            (183, true, true),
            (21, true, true),
            (22, false, true),
        ] {
            let elf = TestElf { machine, wide, big, ..TestElf::executable() };
            refused(&elf, "compile it for one of them");
        }
        let mut bytes = TestElf::executable().bytes();
        bytes[5] = 3;
        assert!(inspect(&bytes).expect_err("refused").to_string().contains("byte order"));
    }

    #[test]
    fn what_is_not_an_executable_is_refused() {
        for (file_type, what) in [(1, "object file"), (4, "core dump"), (0, "unknown type")] {
            refused(&TestElf { file_type, ..TestElf::executable() }, what);
        }
        refused(&TestElf { segments: Vec::new(), ..TestElf::executable() }, "program headers");
        refused(&TestElf { entry: 0x9000, ..TestElf::executable() }, "entry point");
        let many = vec![(PT_LOAD, Vec::new()); 257];
        refused(&TestElf { segments: many, ..TestElf::executable() }, "257");
    }

    #[test]
    fn a_shared_library_is_refused_and_a_static_pie_is_not() {
        let mut elf = TestElf { file_type: 3, ..TestElf::executable() };
        assert!(inspect(&elf.bytes()).is_ok(), "a static PIE without a dynamic section");
        refused(&TestElf { entry: 0, file_type: 3, ..TestElf::executable() }, "shared library");
        for (wide, big, machine) in [(true, false, 62), (false, false, 3), (true, true, 22)] {
            (elf.wide, elf.big, elf.machine) = (wide, big, machine);
            let named = elf.dynamic(&[(1, 5), (DT_SONAME, 7)]);
            elf.segments.push((PT_DYNAMIC, named));
            refused(&elf, "shared library");
            elf.segments[1].1 = elf.dynamic(&[(DT_SONAME, 7), (DT_FLAGS_1, DF_1_PIE)]);
            assert!(inspect(&elf.bytes()).is_ok(), "marked as an executable");
            elf.segments[1].1 = elf.dynamic(&[(1, 5)]);
            assert!(inspect(&elf.bytes()).is_ok(), "without a name");
            elf.segments.pop();
        }
        let library = elf.dynamic(&[(DT_SONAME, 7)]);
        let mut runnable = TestElf::interpreted(b"/lib/ld.so\0");
        runnable.segments.push((PT_DYNAMIC, library));
        assert!(inspect(&runnable.bytes()).is_ok(), "a library that can be run, as libc");
    }

    #[test]
    fn an_interpreter_that_is_no_absolute_path_is_refused() {
        let long = [b"/".as_slice(), &[b'x'; 4096], b"\0"].concat();
        for path in [&b""[..], b"\0", b"ld.so\0", b"/lib/ld.so", b"/\xff\0", &long] {
            refused(&TestElf::interpreted(path), "absolute path");
        }
    }

    #[test]
    fn an_executable_cut_anywhere_is_truncated() {
        let bytes = TestElf::interpreted(b"/lib/ld.so\0").bytes();
        for length in 4..bytes.len() {
            let result = inspect(&&bytes[..length]);
            let Err(InspectError::Invalid(invalid)) = result else {
                panic!("{length}: {result:?}")
            };
            assert_eq!(invalid.code, Code::Truncated, "{length}: {invalid}");
        }
        // Without section headers the segments show it.
        let mut stripped = bytes.clone();
        stripped[40..48].fill(0);
        stripped[60..62].fill(0);
        for length in 4..bytes.len() - 40 {
            assert!(inspect(&&stripped[..length]).is_err(), "{length}");
        }
        assert!(inspect(&&stripped[..bytes.len() - 40]).is_ok());
    }
}
