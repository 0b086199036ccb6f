// SPDX-License-Identifier: Apache-2.0

//! An ELF executable: the processor and system it is for, and what it needs to start.
//!
//! Written by hand because so little is needed, of files in both widths and both byte orders that
//! may be hostile. The kernel and the dynamic linker judge everything else when they run the file.

mod arm;
mod dynamic;
mod go;
mod header;
mod notes;
mod system;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::io::Read as _;

use slipway_proto::artifact::ElfFacts;
use slipway_proto::platform::{Architecture, Variant};

use self::dynamic::Dynamic;
use self::header::{Header, Segment};
use self::notes::Notes;
use crate::invalid::{Code, InspectError, quoted};
use crate::source::{Source, SourceReader};

/// The first bytes of every ELF file.
pub const MAGIC: &[u8; 4] = b"\x7fELF";

/// The longest path of an interpreter (`PATH_MAX`).
const LONGEST_INTERPRETER: u64 = 4096;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const PT_NOTE: u64 = 4;

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
    let (mut dynamic, mut notes) = (Dynamic::default(), Notes::default());
    for segment in &segments {
        match segment.kind {
            PT_LOAD if segment.end().is_none_or(|end| end > source.len()) => {
                return Err(truncated());
            }
            PT_INTERP => interpreter = Some(read_interpreter(source, segment)?),
            PT_DYNAMIC => dynamic = dynamic::read(&header, source, segment, &segments)?,
            PT_NOTE => notes.read(&header, source, segment)?,
            _ => {}
        }
    }
    // Old linkers gave shared libraries an entry point, and some libraries can be run.
    let is_library = header.entry == 0 || dynamic.is_library;
    if interpreter.is_none() && header.file_type == 3 && is_library {
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
    let go = go::Settings::read(source, &segments)?;
    let system = system::of_os_abi(header.os_abi)
        .or(notes.system.map(str::to_owned))
        .or(interpreter.as_deref().and_then(system::of_interpreter).map(str::to_owned))
        .or(go.get("GOOS").and_then(system::of_go).map(str::to_owned));
    if let Some(system) = system {
        return Err(unsupported(format!(
            "the executable is for {}, and images run on Linux: build it for Linux (GOOS=linux for \
            Go, a target such as x86_64-unknown-linux-musl for Rust)",
            printable(&system)
        )));
    }
    let mut facts = ElfFacts::new(architecture, interpreter.as_deref());
    if architecture == Architecture::Arm {
        let number = arm::variant(&header, source, interpreter.as_deref(), go.get("GOARM"))?;
        facts.variant = number.and_then(|number| Variant::new(architecture, number));
    }
    facts.libraries = dynamic.libraries;
    facts.versions = dynamic.versions;
    facts.search_path = dynamic.search_path;
    facts.x86_64_level = notes.x86_64_level;
    facts.linux = notes.linux;
    Ok(facts)
}

/// Returns a name from the file as it may stand in a message.
fn printable(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(40).collect()
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

#[cfg(test)]
mod tests;
