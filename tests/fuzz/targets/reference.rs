// SPDX-License-Identifier: Apache-2.0

//! Any text as a reference to an image.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_proto::{Digest, Reference};

fuzz_target!(|text: &str| {
    let target = Reference::parse_target(text);
    let Ok(reference) = text.parse::<Reference>() else {
        assert!(target.is_err(), "a target is a reference");
        return;
    };
    assert_eq!(read(&reference.to_string()), reference, "printed, it is another one");
    let document = serde_json::to_string(&reference).expect("it can be written");
    let again: Reference = serde_json::from_str(&document).expect("it was just written");
    assert_eq!(again, reference);

    // The parts are what URLs and headers are made of.
    let printable = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(
        printable(reference.registry()) && !reference.registry().contains(['/', '@', '?', '#'])
    );
    let address = format!("https://{}/", reference.registry());
    assert_eq!(address.matches('/').count(), 3);
    for component in reference.repository().split('/') {
        assert!(!component.is_empty() && !component.starts_with('.') && printable(component));
    }
    assert!(printable(&reference.version()) && !reference.version().contains('/'));
    let port = reference.registry().rsplit_once("]").map_or(reference.registry(), |(_, port)| port);
    if let Some((_, port)) = port.rsplit_once(':') {
        assert!(port.bytes().all(|byte| byte.is_ascii_digit()), "{port:?} is no port");
    }

    let digest = Digest::of(text.as_bytes());
    let pinned = reference.with_digest(digest);
    assert_eq!(read(&pinned.to_string()), pinned);
    assert_eq!(pinned.name(), reference.name());
    let tagged = reference.with_tag("v1").expect("a tag");
    assert_eq!(read(&tagged.to_string()), tagged);

    if let Ok(target) = target {
        assert_eq!(target.name(), reference.name(), "the target is elsewhere");
        assert!(target.tag().is_some() && target.digest().is_none());
        assert_eq!(Reference::parse_target(&target.to_string()).as_ref(), Ok(&target));
    }
});

fn read(text: &str) -> Reference {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}
