// SPDX-License-Identifier: Apache-2.0

//! Helpers of this crate's tests.

use std::net::SocketAddr;
use std::sync::LazyLock;

use serde_json::json;
use slipway_proto::artifact::ElfFacts;
use slipway_proto::environment::Catalogue;
use slipway_proto::outcome::{Image, Layer, StageTime, Transfer};
use slipway_proto::platform::Architecture;
use slipway_proto::submission::Uploaded;
use slipway_proto::{
    ArtifactFacts, Build, BuildId, Digest, Platform, Reference, Stage, Submission, Timestamp,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Parsed once: tests make thousands of builds.
static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::default);

/// Makes the record of a build that was just accepted.
pub(crate) fn build(project: &str, image: &str) -> Build {
    let document = json!({
        "artifact": Digest::of(b"artifact"), "image": image, "environment": "scratch"
    });
    let facts = ArtifactFacts::Binary(ElfFacts::new(Architecture::Amd64, None));
    let uploaded = Uploaded { size_bytes: 8, filename: "app".to_owned(), facts };
    let project = project.parse().expect("a name");
    let request = Submission::read(&document)
        .accept(BuildId::fresh(), project, Some(&uploaded), &CATALOGUE)
        .expect("it is accepted");
    Build::accepted(request, Digest::of(b"submission"), Timestamp::now())
}

/// The smallest executable: only an ELF header for x86-64.
pub(crate) fn executable() -> Vec<u8> {
    let mut elf = vec![0; 120];
    elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    elf[16] = 2; // ET_EXEC
    elf[18] = 62; // EM_X86_64
    elf[20] = 1;
    elf[32] = 64; // The program headers follow.
    elf[52] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 1; // PT_LOAD
    elf[68] = 5;
    elf[96] = 120;
    elf[104] = 120;
    elf
}

/// Makes the image of a build that succeeded.
pub(crate) fn image() -> Image {
    let reference: Reference = "r.example/app:1".parse().expect("a reference");
    let digest = Digest::of(b"manifest");
    Image {
        digest,
        pull: reference.with_digest(digest),
        references: vec![reference],
        superseded: Vec::new(),
        platform: Platform::LINUX_AMD64,
        config_digest: Digest::of(b"config"),
        base: None,
        layers: vec![Layer {
            digest: Digest::of(b"layer"),
            diff_id: Digest::of(b"tar"),
            size_bytes: 5,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            base: false,
            transfer: Transfer::Uploaded,
        }],
        size_bytes: 10,
        sent_bytes: 10,
        assembly_version: 1,
        platforms: Vec::new(),
        stages: vec![StageTime { stage: Stage::Push, duration_us: 7 }],
    }
}

/// Starts a stand-in for a NATS server without JetStream: it accepts connections, and answers every
/// request with "no responders".
pub(crate) async fn nats_without_jetstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(refuse_requests(connection));
        }
    });
    address
}

async fn refuse_requests(connection: TcpStream) -> std::io::Result<()> {
    const INFO: &str = r#"INFO {"server_id":"x","server_name":"x","version":"2.9.10","proto":1,"go":"","host":"","port":0,"headers":true,"max_payload":1048576}"#;
    let (read, mut write) = connection.into_split();
    write.write_all(format!("{INFO}\r\n").as_bytes()).await?;
    let mut lines = BufReader::new(read);
    let mut subscriptions: Vec<(String, String)> = Vec::new();
    let mut line = String::new();
    while lines.read_line(&mut line).await? > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["PING"] => write.write_all(b"PONG\r\n").await?,
            ["SUB", subject, .., id] => {
                let prefix = subject.trim_end_matches('*');
                subscriptions.push((prefix.to_owned(), (*id).to_owned()));
            }
            [verb @ ("PUB" | "HPUB"), rest @ ..] => {
                let length: usize = rest.last().and_then(|n| n.parse().ok()).unwrap_or(0);
                let mut payload = vec![0; length + 2];
                lines.read_exact(&mut payload).await?;
                let sizes = if *verb == "PUB" { 1 } else { 2 };
                if let [_, reply] = rest[..rest.len() - sizes]
                    && let Some((_, id)) =
                        subscriptions.iter().find(|(prefix, _)| reply.starts_with(prefix))
                {
                    let answer = format!("HMSG {reply} {id} 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
                    write.write_all(answer.as_bytes()).await?;
                }
            }
            _ => {}
        }
        line.clear();
    }
    Ok(())
}
