// SPDX-License-Identifier: Apache-2.0

//! An image is the same on every processor.
//!
//! SHA-256, CRC-32, deflate and the search for bytes each have several implementations, and the
//! processor decides at run time which one is used. QEMU runs the programs on processors that lack
//! what this one has: `qemu64` has nothing newer than SSE3, and `max` has AVX2, but neither SHA-NI
//! nor AVX-512.

use std::path::Path;
use std::process::Command;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use serde_json::Value;
use slipway_tests::artifacts::{class, deflated, entry, zip};
use slipway_tests::process::{command, program};

/// The processors by QEMU's names, and whether each has AVX2, which is in the level v3.
const EMULATED: [(&str, bool); 2] = [("qemu64", false), ("max", true)];

fn emulate(processor: &str, program: &Path) -> Command {
    let mut emulator = command("qemu-x86_64");
    emulator.args(["-cpu", processor]).arg(program);
    emulator
}

fn output(mut command: Command) -> String {
    let output = command.output().expect("the program starts: run `make setup` first");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Makes a class file whose body repeats itself at all distances, as code does.
fn large_class(random: &mut StdRng, words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = class(17);
    while bytes.len() < 400 * 1024 {
        bytes.extend_from_slice(&words[random.random_range(0..words.len())]);
    }
    bytes
}

/// A Spring Boot JAR. Its application layer is deflated in nine segments, each of which refers to
/// the one before it. Its library layer is stored, with deflated ends.
fn jar() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(1);
    let word = |random: &mut StdRng| {
        let mut word = vec![0; random.random_range(2..12)];
        random.fill_bytes(&mut word);
        word
    };
    let words: Vec<Vec<u8>> = (0..3000).map(|_| word(&mut random)).collect();
    let mut library = vec![0; 700_001];
    random.fill_bytes(&mut library);
    let manifest = "Manifest-Version: 1.0\r\n\
        Main-Class: org.springframework.boot.loader.launch.JarLauncher\r\n\
        Start-Class: com.example.App\r\nSpring-Boot-Version: 3.3.0\r\n\
        Spring-Boot-Classes: BOOT-INF/classes/\r\nSpring-Boot-Lib: BOOT-INF/lib/\r\n\r\n";
    let mut entries = vec![
        entry("META-INF/MANIFEST.MF", manifest),
        entry("org/springframework/boot/loader/launch/JarLauncher.class", class(17)),
        entry("BOOT-INF/lib/library.jar", zip(&[entry("library.bin", library)])),
    ];
    for number in 0..6 {
        let class = large_class(&mut random, &words);
        entries.push(deflated(&format!("BOOT-INF/classes/Class{number}.class"), class));
    }
    zip(&entries)
}

/// Builds the image with an empty cache, and returns its digest.
fn build(mut slipway: Command, jar: &Path, compression: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    slipway.args(["build", "--image=registry.example/app:1", "--base=scratch", "--output=json"]);
    slipway.arg(format!("--compression={compression}"));
    slipway.arg(format!("--to=oci:{}", directory.path().join("layout").display()));
    slipway.arg(format!("--cache-dir={}", directory.path().join("cache").display())).arg(jar);
    let build: Value = serde_json::from_str(&output(slipway)).expect("JSON");
    build["image"]["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn the_emulated_processors_lack_what_they_are_said_to_lack() {
    let linker = Path::new("/lib64/ld-linux-x86-64.so.2");
    for (processor, has_avx2) in EMULATED {
        let mut help = emulate(processor, linker);
        help.arg("--help");
        let levels = output(help);
        assert!(levels.contains("x86-64-v4\n"), "{processor}: {levels}");
        let supported = levels.contains("x86-64-v3 (supported");
        assert_eq!(supported, has_avx2, "{processor}: {levels}");
    }
}

#[test]
fn an_image_has_the_same_digest_on_every_processor() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("app.jar");
    std::fs::write(&file, jar()).expect("it can be written");
    let slipway = program("slipway");
    for compression in ["gzip", "zstd"] {
        let here = build(command(&slipway), &file, compression);
        for (processor, _) in EMULATED {
            let there = build(emulate(processor, &slipway), &file, compression);
            assert_eq!(there, here, "{compression} on {processor}");
        }
    }
}
