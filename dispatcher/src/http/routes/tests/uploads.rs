// SPDX-License-Identifier: Apache-2.0

//! Uploads that are kept, refused and broken off.

use super::*;

#[tokio::test]
async fn an_upload_is_kept_and_found_again() {
    let api = Api::start().await;
    let bytes = testing::executable();
    let digest = Digest::of(&bytes);
    let path = "/v1/projects/team/artifacts?filename=app";
    let answer = api.put(path, &[], bytes.clone()).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let location = format!("/v1/projects/team/artifacts/{digest}");
    assert_eq!(answer.headers()[LOCATION], location);
    let artifact = document(answer).await;
    assert_eq!(artifact["digest"], digest.to_string());
    assert_eq!(artifact["kind"], "binary");

    let answer = api.ask(request("HEAD", &location, &[], "")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["etag"], format!("\"{digest}\""));
    assert_eq!(answer.headers()["slipway-artifact-size"], "120");
    assert_eq!(document(api.get(&location).await).await, artifact);
    let other = location.replace("team", "other");
    assert_eq!(code(api.get(&other).await).await, (404, "artifact_not_found".into()));

    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(digest.as_bytes());
    let promised = format!("sha-256=:{encoded}:");
    let answer = api.put(path, &[("content-digest", &promised)], bytes).await;
    assert_eq!(answer.status(), StatusCode::OK, "the project has it already");
}

#[tokio::test]
async fn an_upload_that_is_refused_leaves_nothing() {
    let api = Api::start().await;
    let path = "/v1/projects/team/artifacts?filename=app";
    let other = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    let none = ("x-none", "");
    let cases = [
        ("/v1/projects/team/artifacts", none, "400 invalid_query"),
        ("/v1/projects/team/artifacts?filename=a/b", none, "400 invalid_query"),
        ("/v1/projects/TEAM/artifacts?filename=app", none, "400 invalid_name"),
        (path, ("content-digest", "sha-256=:AAAA:"), "400 invalid_content_digest"),
        (path, ("content-digest", other), "422 digest_mismatch"),
        (path, ("content-length", "121"), "400 upload_truncated"),
    ];
    for (path, header, expected) in cases {
        let (status, code) = code(api.put(path, &[header], testing::executable()).await).await;
        assert_eq!(format!("{status} {code}"), expected, "{path}");
        assert_eq!(api.stored(), Vec::<String>::new(), "{expected}");
    }
    let answer = api.put(path, &[], "neither ZIP nor ELF").await;
    assert_eq!(code(answer).await, (422, "not_an_artifact".to_owned()));
    assert_eq!(api.stored(), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_above_the_limit_is_refused_with_the_limit_in_the_sentence() {
    let api = Api::start().await;
    let path = "/v1/projects/team/artifacts?filename=app";
    let unread = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
    let answer = api.put(path, &[("content-length", "4097")], unread).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    insta::assert_json_snapshot!("artifact_too_large", document(answer).await);
    let chunks = futures::stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[0; 1024])));
    let answer = api.put(path, &[], Body::from_stream(chunks.take(5))).await;
    assert_eq!(code(answer).await, (413, "artifact_too_large".into()));
    assert_eq!(api.stored(), Vec::<String>::new());
}

/// Sends bytes on a connection and returns what comes back until it closes.
async fn converse(address: SocketAddr, sent: &[u8], shutdown: bool) -> String {
    let mut connection = TcpStream::connect(address).await.expect("it connects");
    connection.write_all(sent).await.expect("it is sent");
    if shutdown {
        connection.shutdown().await.expect("it is shut down");
    }
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("an answer and no reset");
    String::from_utf8(answer).expect("a text")
}

#[tokio::test]
async fn a_client_that_goes_on_sending_still_gets_its_refusal() {
    let api = Api::start().await;
    let address = api.listen().await;
    let length = 8 << 20;
    let head = format!(
        "PUT /v1/projects/team/artifacts?filename=app HTTP/1.1\r\nHost: x\r\n\
        Content-Length: {length}\r\n\r\n"
    );
    let sent = [head.as_bytes(), &vec![0; length]].concat();
    let answer = converse(address, &sent, false).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert!(answer.contains("artifact_too_large"), "{answer}");
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_without_sending() {
    let api = Api::start().await;
    let address = api.listen().await;
    let head = "PUT /v1/projects/team/artifacts?filename=app HTTP/1.1\r\nHost: x\r\n\
        Content-Length: 8192\r\nExpect: 100-continue\r\n\r\n";
    let answer = converse(address, head.as_bytes(), false).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn an_upload_whose_connection_breaks_leaves_nothing() {
    let api = Api::start().await;
    let address = api.listen().await;
    let head = "PUT /v1/projects/team/artifacts?filename=app HTTP/1.1\r\nHost: x\r\n\
        Content-Length: 4000\r\n\r\n";
    let sent = [head.as_bytes(), &testing::executable()].concat();
    converse(address, &sent, true).await;
    // The connection is closed after the upload was dropped.
    assert_eq!(api.stored(), Vec::<String>::new());
    assert_eq!(api.app.metrics.uploads_refused.load(std::sync::atomic::Ordering::Relaxed), 1);
}
