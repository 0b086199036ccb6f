// SPDX-License-Identifier: Apache-2.0

//! Messages that are requests, and messages that are not.

use super::*;
use crate::publish::request_headers;
use crate::testing;

/// The message of a build, as it is published.
fn message() -> (slipway_proto::Build, HeaderMap, Vec<u8>) {
    let build = testing::build();
    let payload = codec::encode(&build.request).expect("it encodes");
    let headers = request_headers(&build, &payload, None);
    (build, headers, payload)
}

#[test]
fn what_was_published_is_what_is_delivered() {
    let (build, headers, payload) = message();
    let delivered = read(Some(&headers), &payload).expect("it is a request");
    assert_eq!(delivered.request, build.request);
    assert_eq!(delivered.submission, build.submission);
    assert_eq!(delivered.accepted_at, build.accepted_at);
    assert_eq!(delivered.order, build.order);
}

#[test]
fn bytes_that_changed_on_their_way_are_noticed() {
    let (_build, headers, mut payload) = message();
    payload[9] ^= 1;
    let error = read(Some(&headers), &payload).expect_err("they are corrupt");
    assert!(matches!(error, DeliveryError::Corrupt { .. }), "{error}");
}

#[test]
fn bytes_that_were_never_a_request_are_refused_although_their_digest_is_right() {
    let (_build, mut headers, _payload) = message();
    headers.insert(header::SPEC_DIGEST, codec::spec_digest(b"no request").to_string());
    let error = read(Some(&headers), b"no request").expect_err("they do not decode");
    assert!(matches!(error, DeliveryError::Codec(_)), "{error}");
}

#[test]
fn every_header_that_a_request_needs_is_named_when_it_is_missing_or_malformed() {
    let needed =
        [header::SPEC_DIGEST, header::SUBMISSION_DIGEST, header::ACCEPTED_AT, header::ORDER];
    for name in needed {
        let (_build, headers, payload) = message();
        let missing: HeaderMap = headers
            .iter()
            .filter(|(key, _)| AsRef::<str>::as_ref(key) != name)
            .map(|(key, values)| (key.clone(), values[0].clone()))
            .collect();
        let error = read(Some(&missing), &payload).expect_err("a header is missing");
        assert!(matches!(error, DeliveryError::Header(header) if header == name), "{error}");
        let mut malformed = headers;
        malformed.insert(name, "?");
        let error = read(Some(&malformed), &payload).expect_err("a header is malformed");
        match error {
            DeliveryError::Corrupt { expected, .. } => assert_eq!(expected, "?"),
            DeliveryError::Header(header) => assert_eq!(header, name),
            DeliveryError::Codec(error) => panic!("{error}"),
        }
    }
    let (_build, _headers, payload) = message();
    assert!(read(None, &payload).is_err());
}

#[test]
fn each_answer_has_the_word_that_the_server_knows_for_it() {
    for (answer, word) in [
        (Answer::Done, "+ACK"),
        (Answer::GiveBack(None), "-NAK"),
        (Answer::GiveBack(Some(Duration::from_secs(2))), r#"-NAK {"delay":2000000000}"#),
        (Answer::Extend, "+WPI"),
        (Answer::Reject, "+TERM"),
    ] {
        assert_eq!(bytes::Bytes::from(AckKind::from(answer)), word);
    }
}
