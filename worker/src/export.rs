// SPDX-License-Identifier: Apache-2.0

//! Writes an image to this machine's disk, or into a pipe, instead of a registry.

mod place;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use serde_json::json;
use slipway_proto::{BuildRequest, Digest, Reference};

use crate::assemble::base::BaseLayer;
use crate::assemble::index::{self, EntryPlatform};
use crate::assemble::{Assembled, tar};
use crate::pipeline::{PlatformImage, Product};
use place::Place;

/// How much is copied at a time.
const CHUNK: usize = 256 * 1024;

/// The target of a local build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The registries that the request names.
    Registry,
    /// An OCI image layout in a directory.
    OciLayout(PathBuf),
    /// A file that `docker load` and `podman load` read, or a pipe or device; `-` is standard output.
    DockerArchive(PathBuf),
}

impl Target {
    /// Checks that the target can be written to, before anything is built.
    ///
    /// # Errors
    ///
    /// When it is of the wrong kind, or in a directory that does not exist.
    pub fn check(&self) -> io::Result<()> {
        match self {
            Self::Registry => Ok(()),
            Self::OciLayout(path) if path.as_os_str() == "-" => {
                Err(io::Error::other("an OCI layout is a directory: name one"))
            }
            Self::OciLayout(path) => match std::fs::metadata(path) {
                Ok(found) if !found.is_dir() => {
                    Err(io::Error::other("an OCI layout is a directory, and this is none"))
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Self::DockerArchive(path) => Place::of(path).map(drop),
        }
    }

    /// Returns whether it is the standard output of this process.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::DockerArchive(path) if place::is_stdout(path))
    }
}

/// Writes images and returns how many bytes were written. `base_layers` has the open layers of the
/// base of each.
///
/// # Errors
///
/// When the disk fails.
pub fn write(
    target: &Target,
    request: &BuildRequest,
    product: &Product,
    base_layers: &[Vec<File>],
) -> io::Result<u64> {
    match target {
        Target::OciLayout(path) => oci_layout(path, request, product, base_layers),
        Target::DockerArchive(path) => match (&product.images[..], base_layers) {
            ([image], [base_layers]) => docker_archive(path, request, &image.image, base_layers),
            _ => Err(io::Error::other("a Docker archive holds one platform: use oci:DIR")),
        },
        Target::Registry => Ok(0),
    }
}

/// OCI image specification, "Image Layout". Other images in the directory are kept. A reference
/// that already exists there moves to this image.
fn oci_layout(
    path: &Path,
    request: &BuildRequest,
    product: &Product,
    base_layers: &[Vec<File>],
) -> io::Result<u64> {
    let blobs = path.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let mut written = 0;
    let mut blob = |digest: Digest, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<u64>| {
        let name = blobs.join(digest.hex());
        if name.exists() {
            return Ok(());
        }
        let mut file = place::temporary(&blobs)?;
        written += fill(&mut file)?;
        file.persist(name).map_err(|error| error.error)?;
        Ok::<_, io::Error>(())
    };
    for (PlatformImage { image, .. }, base_layers) in product.images.iter().zip(base_layers) {
        for (layer, file) in bases(image).zip(base_layers) {
            blob(layer.digest, &mut |out| copy_from_start(file, out))?;
        }
        for layer in &image.layers {
            blob(layer.digest, &mut |out| {
                let content = layer.content_blocking().map_err(io::Error::other)?;
                copy(&mut content.reader_from(0), out)
            })?;
        }
        for (digest, bytes) in
            [(image.config_digest, &image.config), (image.manifest_digest, &image.manifest)]
        {
            blob(digest, &mut |out| out.write_all(bytes).map(|()| bytes.len() as u64))?;
        }
    }
    let document = product.document();
    if product.index.is_some() {
        let bytes = &document.bytes;
        blob(document.digest, &mut |out| out.write_all(bytes).map(|()| bytes.len() as u64))?;
    }
    replace(&path.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index_path = path.join("index.json");
    let index = match std::fs::read(&index_path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => json!({}),
        Err(error) => return Err(error),
    };
    const NAME: &str = "org.opencontainers.image.ref.name";
    let tags: BTreeSet<&str> = request.references.iter().filter_map(|r| r.tag()).collect();
    let mut manifests = index["manifests"].as_array().cloned().unwrap_or_default();
    manifests.retain(|entry| {
        let name = entry["annotations"][NAME].as_str();
        name.is_none_or(|name| !tags.contains(name))
    });
    manifests.extend(tags.iter().map(|tag| {
        let mut entry = json!({
            "mediaType": document.media_type,
            "digest": document.digest,
            "size": document.bytes.len(),
            "annotations": {NAME: tag},
        });
        if let [PlatformImage { platform, image, .. }] = &product.images[..] {
            entry["platform"] = json!(EntryPlatform::of(*platform, image));
        }
        entry
    }));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": index::MEDIA_TYPE,
        "manifests": manifests,
    });
    replace(&index_path, index.to_string().as_bytes())?;
    Ok(written)
}

/// The format of `docker save`: a tar of uncompressed layers, the config and `manifest.json`.
fn docker_archive(
    path: &Path,
    request: &BuildRequest,
    image: &Assembled,
    base_layers: &[File],
) -> io::Result<u64> {
    let place = Place::of(path)?;
    let (out, directory) = (place.open()?, place.scratch());
    let mut archive = Archive { out: BufWriter::new(out), written: 0 };
    let mut names = Vec::new();
    for (layer, file) in bases(image).zip(base_layers) {
        let mut file = file.try_clone()?;
        file.rewind()?;
        let mut plain = decompress(&layer.media_type, file)?;
        names.push(archive.layer(&directory, layer.diff_id, &mut plain)?);
    }
    for layer in &image.layers {
        let content = layer.content_blocking().map_err(io::Error::other)?;
        let mut plain = decompress(layer.media_type, content.reader_from(0))?;
        names.push(archive.layer(&directory, layer.diff_id, &mut plain)?);
    }
    let config = format!("{}.json", image.config_digest.hex());
    archive.bytes(&config, &image.config)?;
    let tags: Vec<String> = request.references.iter().map(Reference::familiar).collect();
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": names}]);
    archive.bytes("manifest.json", manifest.to_string().as_bytes())?;
    archive.write(&tar::END)?;
    let written = archive.written;
    let out = archive.out.into_inner().map_err(io::IntoInnerError::into_error)?;
    out.finish()?;
    Ok(written)
}

struct Archive {
    out: BufWriter<place::Out>,
    written: u64,
}

impl Archive {
    /// Adds a layer. It is unpacked into a directory first, because its size is in the header.
    fn layer(
        &mut self,
        directory: &Path,
        diff_id: Digest,
        plain: &mut dyn io::Read,
    ) -> io::Result<String> {
        let mut unpacked = tempfile::tempfile_in(directory)?;
        let size = io::copy(plain, &mut unpacked)?;
        unpacked.rewind()?;
        let name = format!("{}.tar", diff_id.hex());
        self.header(&name, size)?;
        self.written += io::copy(&mut unpacked, &mut self.out)?;
        self.pad(size)?;
        Ok(name)
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(name, bytes.len() as u64)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn header(&mut self, name: &str, size: u64) -> io::Result<()> {
        let entry = tar::Entry {
            path: name,
            kind: tar::Kind::File(size),
            mode: 0o644,
            user: 0,
            group: 0,
            modified: crate::assemble::DEFAULT_EPOCH,
        };
        self.write(&tar::header(&entry))
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.write(&[0; tar::BLOCK][..tar::padding(size)])
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Returns the tar archive in a layer.
fn decompress<'a>(
    media_type: &str,
    stored: impl io::Read + 'a,
) -> io::Result<Box<dyn io::Read + 'a>> {
    let stored = io::BufReader::with_capacity(CHUNK, stored);
    Ok(match media_type {
        gzip if gzip.ends_with("gzip") => Box::new(GzDecoder::new(stored)),
        zstd if zstd.ends_with("zstd") => Box::new(zstd::Decoder::with_buffer(stored)?),
        _plain => Box::new(stored),
    })
}

/// Like [`io::copy`], in larger pieces.
fn copy(reader: &mut dyn io::Read, out: &mut dyn Write) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut size = 0;
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(size),
            read => {
                out.write_all(&chunk[..read])?;
                size += read as u64;
            }
        }
    }
}

fn bases(image: &Assembled) -> impl Iterator<Item = &BaseLayer> {
    image.base.iter().flat_map(|base| &base.layers)
}

fn copy_from_start(file: &File, out: &mut dyn Write) -> io::Result<u64> {
    let mut file = file.try_clone()?;
    file.rewind()?;
    copy(&mut file, out)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().expect("a file of the layout lies in its directory");
    let mut temporary = place::temporary(directory)?;
    temporary.write_all(bytes)?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}
