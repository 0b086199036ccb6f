// SPDX-License-Identifier: Apache-2.0

//! A base image in the size of a Java runtime's: two compressed layers of 16 and 67 MB.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_tests::artifacts;
use slipway_tests::chaos::random::Random;

/// An OCI layout with the base image under the tag `base`.
#[derive(Debug, Clone)]
pub struct Base {
    /// The directory of the layout.
    pub layout: PathBuf,
    /// How large its layers are as they are stored, in bytes.
    pub layer_bytes: u64,
}

/// Writes a base image with layers of about these sizes, the same bytes each time.
///
/// # Errors
///
/// When the directory cannot be written.
pub fn write_base(layout: &Path, layer_bytes: [usize; 2]) -> io::Result<Base> {
    std::fs::create_dir_all(layout.join("blobs/sha256"))?;
    let mut random = Random::new(0xba5e);
    let etc: [(&str, &[u8]); 2] =
        [("etc/os-release", b"ID=bench\n"), ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")];
    let (mut layers, mut diff_ids, mut stored) = (Vec::new(), Vec::new(), 0);
    for (number, bytes) in layer_bytes.into_iter().enumerate() {
        let names: Vec<String> =
            (0..4).map(|part| format!("usr/lib/l{number}/{part}.so")).collect();
        let mut data = vec![0; bytes / 4];
        for chunk in data.chunks_mut(8) {
            chunk.copy_from_slice(&random.draw().to_le_bytes()[..chunk.len()]);
        }
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for part in 0..4_u8 {
            let mut file = data.clone();
            file.iter_mut().for_each(|byte| *byte = byte.wrapping_add(part.wrapping_mul(37)));
            parts.push(file);
        }
        let mut files: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(parts.iter().map(Vec::as_slice)).collect();
        if number == 0 {
            files.extend(etc);
        }
        let tar = artifacts::tar(&files);
        // These bytes do not compress, and the cheap levels would make them larger.
        let mut encoder = GzEncoder::new(Vec::with_capacity(tar.len()), Compression::none());
        encoder.write_all(&tar)?;
        let layer = encoder.finish()?;
        diff_ids.push(Digest::of(&tar));
        stored += layer.len() as u64;
        layers.push(put(layout, "application/vnd.oci.image.layer.v1.tar+gzip", &layer)?);
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/usr/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "the benchmark"}, {"created_by": "the benchmark"}],
    });
    let config = config.to_string();
    let config = put(layout, "application/vnd.oci.image.config.v1+json", config.as_bytes())?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
    });
    let mut manifest = put(layout, media_type, manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "base"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(layout.join("index.json"), index.to_string())?;
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(Base { layout: layout.to_owned(), layer_bytes: stored })
}

/// Writes a blob and returns its descriptor.
fn put(layout: &Path, media_type: &str, bytes: &[u8]) -> io::Result<Value> {
    let digest = Digest::of(bytes);
    let name = digest.to_string();
    let (_, hex) = name.split_once(':').expect("a digest names its algorithm");
    std::fs::write(layout.join("blobs/sha256").join(hex), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_an_image_of_the_wanted_size() {
        let directory = tempfile::tempdir().expect("a directory");
        let base = write_base(directory.path(), [100_000, 300_000]).expect("it is written");
        assert!((400_000..450_000).contains(&base.layer_bytes), "{}", base.layer_bytes);
        let read = |name: &str| {
            let bytes = std::fs::read(directory.path().join(name)).expect("it is there");
            serde_json::from_slice::<Value>(&bytes).expect("JSON")
        };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest");
            read(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")))
        };
        let manifest = blob(&read("index.json")["manifests"][0]);
        let config = blob(&manifest["config"]);
        assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(2));
        assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    }
}
