// SPDX-License-Identifier: Apache-2.0

//! A WAR: libraries deflated, as Maven packs them; classes, pages and a descriptor.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use super::Key;
use super::boot::library;
use super::content::Content;
use super::zip::ZipWriter;

const LIBRARIES: u64 = 100;
const LIBRARY_BYTES: u64 = 945_000;
const CLASSES: u64 = 900;
const PAGES: u64 = 200;

/// Writes a WAR of 50 MB.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_war(key: Key, path: &Path) -> io::Result<()> {
    let mut content = Content::new();
    let mut war = ZipWriter::new(BufWriter::with_capacity(1 << 20, File::create(path)?));
    war.directory("META-INF/")?;
    war.deflated("META-INF/MANIFEST.MF", b"Manifest-Version: 1.0\r\n\r\n")?;
    for number in 0..PAGES {
        content.seed(!key.0, number << 48);
        let mut page = b"<%@ page contentType=\"text/html\" %>\n".to_vec();
        content.fill(&mut page, 2000);
        war.deflated(&format!("page{number}.jsp"), &page)?;
    }
    for directory in ["WEB-INF/", "WEB-INF/classes/", "WEB-INF/classes/shop/", "WEB-INF/lib/"] {
        war.directory(directory)?;
    }
    let descriptor = "<web-app xmlns=\"https://jakarta.ee/xml/ns/jakartaee\" version=\"6.0\"/>\n";
    war.deflated("WEB-INF/web.xml", descriptor.as_bytes())?;
    for number in 0..CLASSES {
        let size = content.size(number, 500, 3500);
        content.seed(key.0, number);
        war.deflated(&format!("WEB-INF/classes/shop/Shop{number}.class"), &content.class(size))?;
    }
    for number in 0..LIBRARIES {
        let library = library(&mut content, !key.0, number, LIBRARY_BYTES)?;
        war.deflated(&format!("WEB-INF/lib/library-{number}.jar"), &library)?;
    }
    war.finish()?;
    Ok(())
}
