// SPDX-License-Identifier: Apache-2.0

//! Which requests a push sends to a registry, and how often it sends each byte.

mod requests;
mod uploads;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use slipway_proto::Digest;
use slipway_tests::faulty_registry::{FaultyRegistry, Misbehaviour, Rule, Seen};
use slipway_tests::{Stack, WorkerOptions, artifacts};

/// How much is sent besides the layers: configs.
const SMALL: u64 = 64 * 1024;
const CHUNK: u64 = 1 << 20;

/// A stack with a proxy that observes its registry.
struct Scene {
    stack: Stack,
    registry: FaultyRegistry,
}

impl Scene {
    async fn start(arguments: &[&str]) -> Self {
        let mut stack = Stack::start().await;
        let registry = FaultyRegistry::before(&stack.registry.address, 1).await;
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        stack.add_worker(WorkerOptions { id: "worker-1", arguments, ..WorkerOptions::default() });
        Self { stack, registry }
    }

    /// Puts a base into the registry, with the given number of bytes in each layer.
    async fn put_base(&self, name: &str, layers: &[usize]) -> Digest {
        let archive = |(seed, length)| artifacts::tar(&[("data", &noise(seed, length))]);
        let archives: Vec<Vec<u8>> = (0..).zip(layers.iter().copied()).map(archive).collect();
        self.stack.registry.put_base_of(name, "1", json!({}), &archives).await
    }

    async fn submit(&self, program: &[u8], image: &str, more: Value) -> String {
        let artifact = self.stack.upload("tool", program.to_owned()).await;
        let image = format!("{}/{image}", self.registry.address());
        let mut request = json!({"artifact": artifact, "image": image, "environment": "scratch"});
        for (field, value) in more.as_object().into_iter().flatten() {
            request[field] = value.clone();
        }
        self.stack.submit(&request).await
    }

    async fn succeeded(&self, id: &str) -> Value {
        let build = self.stack.finished(id).await;
        assert_eq!(build["state"], "succeeded", "{build}");
        build
    }

    /// Builds a program, on a base of the same registry or on none, and returns the build and its
    /// requests.
    async fn run(&self, program: &[u8], image: &str, base: &str) -> (Value, Vec<Seen>) {
        let before = self.registry.requests().len();
        let base_image = format!("{}/{base}", self.registry.address());
        let more = if base.is_empty() { json!({}) } else { json!({"base": base_image}) };
        let id = self.submit(program, image, more).await;
        let build = self.succeeded(&id).await;
        (build, self.registry.requests().split_off(before))
    }

    fn rule(&self, method: &'static str, misbehaviour: Misbehaviour, times: u32) {
        self.rule_about(method, "/blobs/", misbehaviour, times);
    }

    fn rule_about(
        &self,
        method: &'static str,
        path: &str,
        misbehaviour: Misbehaviour,
        times: impl Into<Option<u32>>,
    ) {
        self.registry.add_rule(Rule {
            method: Some(method),
            path_contains: path.to_owned(),
            misbehaviour,
            times: times.into(),
            probability: 1.0,
        });
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A program whose layer has about this many bytes.
fn program(seed: u64, length: usize) -> Vec<u8> {
    let mut program = artifacts::elf(62, "");
    program.extend_from_slice(&noise(seed, length));
    program
}

fn count(requests: &[Seen], method: &str, path: &str) -> usize {
    requests.iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
}

/// Returns how many bytes of blobs arrived.
fn blob_bytes(requests: &[Seen]) -> u64 {
    requests.iter().map(|seen| seen.body_bytes).sum()
}

/// Returns the requests that carried something large.
fn uploads(requests: &[Seen]) -> Vec<&Seen> {
    requests.iter().filter(|seen| seen.body_bytes > SMALL).collect()
}

/// Returns digest and size of the build's own layer.
fn made_layer(build: &Value) -> (String, u64) {
    let layers = build["image"]["layers"].as_array().expect("layers");
    let layer = layers.iter().find(|layer| layer["base"] == false).expect("a layer of its own");
    let digest = layer["digest"].as_str().expect("a digest");
    (digest.to_owned(), layer["size_bytes"].as_u64().expect("a size"))
}

fn transfers(build: &Value) -> Vec<&str> {
    let layers = build["image"]["layers"].as_array().expect("layers");
    layers.iter().filter_map(|layer| layer["transfer"].as_str()).collect()
}
