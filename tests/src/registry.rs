// SPDX-License-Identifier: Apache-2.0

//! A registry as a child process, and what tests put into it and read from it. Debian's
//! docker-registry unless a test asks for another.

mod program;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json};
use slipway_proto::Digest;

use crate::http;
use crate::port::free_port;
use crate::process::Process;
use crate::{artifacts, wait};
pub use program::RegistryProgram;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// A registry of its own.
pub struct Registry {
    /// `127.0.0.1:<port>`.
    pub address: String,
    client: reqwest::Client,
    process: Process,
    directory: PathBuf,
    program: RegistryProgram,
    password_file: Option<PathBuf>,
}

impl Registry {
    /// Starts an open registry.
    pub async fn start(directory: &Path) -> Self {
        Self::start_program(RegistryProgram::DockerRegistry, directory).await
    }

    /// Starts another open registry.
    pub async fn start_program(program: RegistryProgram, directory: &Path) -> Self {
        Self::start_with(program, directory, None).await
    }

    /// Starts a registry that wants the user `user` with the password `password`.
    pub async fn start_closed(directory: &Path) -> Self {
        Self::start_closed_program(RegistryProgram::DockerRegistry, directory).await
    }

    /// Starts another registry that wants the user `user` with the password `password`.
    ///
    /// # Panics
    ///
    /// When the password file cannot be written.
    pub async fn start_closed_program(program: RegistryProgram, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("the directory can be made");
        let file = directory.join("htpasswd");
        // bcrypt of `password`.
        let line = "user:$2a$05$GOYqtVdsNnOa0k51soFZFuvEJw1313SQ2lo6vxbT1yWUC2futLyxu\n";
        std::fs::write(&file, line).expect("the password file can be written");
        Self::start_with(program, directory, Some(file)).await
    }

    async fn start_with(
        program: RegistryProgram,
        directory: &Path,
        password_file: Option<PathBuf>,
    ) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let process = spawn(&program, directory, &address, password_file.as_deref());
        let (client, directory) = (http::client(), directory.to_owned());
        let registry = Self { address, client, process, directory, program, password_file };
        registry.ready().await;
        registry
    }

    async fn ready(&self) {
        let url = self.url("");
        let client = &self.client;
        wait::until("the registry", wait::SOON, || http::answers(client, &url)).await;
    }

    /// Kills the registry.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, with its data.
    pub async fn restart(&mut self) {
        let Self { program, directory, address, password_file, .. } = &*self;
        self.process = spawn(program, directory, address, password_file.as_deref());
        self.ready().await;
    }

    /// Replaces the user of a closed registry: from its next start it takes only the user `next`
    /// with the password `next`.
    ///
    /// # Panics
    ///
    /// When the registry is open, or the password file cannot be written.
    pub fn replace_user(&self) {
        // bcrypt of `next`.
        let line = "next:$2b$05$TACJzYwxBcJO3P4GZKQJVuAFnSYTHaDy2IqgD011/WMeIubri7Vc.\n";
        let file = self.password_file.as_ref().expect("the registry is closed");
        std::fs::write(file, line).expect("the password file can be written");
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// Returns a manifest with its digest, if it is there.
    ///
    /// # Panics
    ///
    /// When it does not answer like a registry.
    pub async fn manifest(&self, repository: &str, version: &str) -> Option<(Value, Digest)> {
        let request = self.client.get(self.url(&format!("{repository}/manifests/{version}")));
        let response = request.header("accept", MANIFEST_TYPE).send().await.expect("it answers");
        if !response.status().is_success() {
            return None;
        }
        let bytes = response.bytes().await.expect("a body");
        Some((serde_json::from_slice(&bytes).expect("JSON"), Digest::of(&bytes)))
    }

    /// Returns an index with its digest.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub async fn index(&self, repository: &str, version: &str) -> (Value, Digest) {
        let request = self.client.get(self.url(&format!("{repository}/manifests/{version}")));
        let response = request.header("accept", INDEX_TYPE).send().await.expect("it answers");
        assert!(response.status().is_success(), "{repository}:{version}: {}", response.status());
        let bytes = response.bytes().await.expect("a body");
        (serde_json::from_slice(&bytes).expect("JSON"), Digest::of(&bytes))
    }

    /// Returns the bytes of a blob.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub async fn blob(&self, repository: &str, digest: &str) -> Bytes {
        let url = self.url(&format!("{repository}/blobs/{digest}"));
        let response = self.client.get(url).send().await.expect("it answers");
        assert!(response.status().is_success(), "{repository}@{digest}: {}", response.status());
        response.bytes().await.expect("a body")
    }

    /// Returns the config of an image.
    ///
    /// # Panics
    ///
    /// When the image is not there.
    pub async fn config(&self, repository: &str, version: &str) -> Value {
        let (manifest, _) = self.manifest(repository, version).await.expect("the image is there");
        let digest = manifest["config"]["digest"].as_str().expect("a config");
        serde_json::from_slice(&self.blob(repository, digest).await).expect("JSON")
    }

    /// Returns the paths with mode, owner and size in one layer of an image, as `tar` lists them.
    ///
    /// # Panics
    ///
    /// When the image is not there, or tar does not read it.
    pub async fn listing(&self, repository: &str, version: &str, layer: usize) -> Vec<String> {
        let (manifest, _) = self.manifest(repository, version).await.expect("the image is there");
        let digest = manifest["layers"][layer]["digest"].as_str().expect("a layer").to_owned();
        let bytes = self.blob(repository, &digest).await;
        artifacts::tar_listing(&bytes)
    }

    /// Returns the tags of a repository.
    ///
    /// # Panics
    ///
    /// When the registry does not answer.
    pub async fn tags(&self, repository: &str) -> Vec<String> {
        let url = self.url(&format!("{repository}/tags/list"));
        let response = self.client.get(url).send().await.expect("it answers");
        let document: Value = response.json().await.expect("JSON");
        let tags = document["tags"].as_array().cloned().unwrap_or_default();
        tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
    }

    /// Puts a small base image with one layer into the registry, the same bytes each time, and
    /// returns the digest of its manifest.
    pub async fn put_base(&self, repository: &str, tag: &str, config: Value) -> Digest {
        let layer = artifacts::tar(&[("etc/base", b"a base of the tests\n")]);
        self.put_base_of(repository, tag, config, &[layer]).await
    }

    /// Puts a base image with these layers, given as tar archives, into the registry and returns
    /// the digest of its manifest.
    pub async fn put_base_of(
        &self,
        repository: &str,
        tag: &str,
        config: Value,
        archives: &[Vec<u8>],
    ) -> Digest {
        let history = vec![json!({"created_by": "the tests"}); archives.len()];
        let more = json!({"config": config, "history": history});
        self.put_base_saying(repository, tag, more, archives).await.0
    }

    /// Puts a base image for each architecture into the registry, with a layer of its own, and an
    /// index of them under the tag.
    pub async fn put_platforms(&self, repository: &str, tag: &str, architectures: &[&str]) {
        let mut manifests = Vec::new();
        for architecture in architectures {
            let layer = artifacts::tar(&[("etc/architecture", architecture.as_bytes())]);
            let tag = format!("{tag}-{architecture}");
            let more = json!({
                "architecture": architecture, "history": [{"created_by": "the tests"}],
                "config": {},
            });
            let (digest, size) = self.put_base_saying(repository, &tag, more, &[layer]).await;
            manifests.push(json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": size,
                "platform": {"os": "linux", "architecture": architecture}}));
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests});
        self.put_manifest(repository, tag, INDEX_TYPE, &index).await;
    }

    /// Puts a base image with these layers, whose config document says more than it must, into the
    /// registry, and returns the digest and the size of its manifest.
    pub async fn put_base_saying(
        &self,
        repository: &str,
        tag: &str,
        more: Value,
        archives: &[Vec<u8>],
    ) -> (Digest, usize) {
        let diff_ids: Vec<Digest> = archives.iter().map(|archive| Digest::of(archive)).collect();
        let mut config = json!({
            "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        for (member, value) in more.as_object().into_iter().flatten() {
            config[member] = value.clone();
        }
        let config = Bytes::from(config.to_string());
        let mut layers = Vec::new();
        for archive in archives {
            let layer = artifacts::gzip(archive);
            let digest = self.put_blob(repository, layer.clone()).await;
            layers.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest, "size": layer.len(),
            }));
        }
        let config_digest = self.put_blob(repository, config.clone()).await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest, "size": config.len(),
            },
            "layers": layers,
        });
        let digest = self.put_manifest(repository, tag, MANIFEST_TYPE, &manifest).await;
        (digest, manifest.to_string().len())
    }

    /// Puts an index over one manifest for `linux/amd64`.
    pub async fn put_index(&self, repository: &str, tag: &str, manifest: Digest, size: usize) {
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX_TYPE,
            "manifests": [{"mediaType": MANIFEST_TYPE, "digest": manifest, "size": size,
                "platform": {"os": "linux", "architecture": "amd64"}}],
        });
        self.put_manifest(repository, tag, INDEX_TYPE, &index).await;
    }

    /// Puts a blob into a repository.
    ///
    /// # Panics
    ///
    /// When the registry refuses it.
    pub async fn put_blob(&self, repository: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        let start = self.client.post(self.url(&format!("{repository}/blobs/uploads/")));
        let response = start.send().await.expect("it answers");
        let location = response.headers()["location"].to_str().expect("a location");
        let mut location = response.url().join(location).expect("a location");
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let put = self.client.put(location).body(bytes);
        let response = put.send().await.expect("it answers");
        assert!(response.status().is_success(), "{}", response.status());
        digest
    }

    /// Puts a manifest or index of a media type under a tag.
    ///
    /// # Panics
    ///
    /// When the registry refuses it.
    pub async fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        value: &Value,
    ) -> Digest {
        let bytes = Bytes::from(value.to_string());
        let url = self.url(&format!("{repository}/manifests/{tag}"));
        let put = self.client.put(url).header("content-type", kind).body(bytes.clone());
        let response = put.send().await.expect("it answers");
        assert!(response.status().is_success(), "{}", response.status());
        Digest::of(&bytes)
    }
}

fn spawn(
    program: &RegistryProgram,
    directory: &Path,
    address: &str,
    password_file: Option<&Path>,
) -> Process {
    let more = match password_file {
        Some(path) => json!({"auth": {"htpasswd": {"realm": "tests", "path": path}}}),
        None => json!({}),
    };
    program.start(directory, address, &more)
}
