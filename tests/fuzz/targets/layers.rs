// SPDX-License-Identifier: Apache-2.0

//! Any text as a `layers.idx`, and where entries belong.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use slipway_artifact::Layers;

fuzz_target!(|bytes: &[u8]| {
    // As the worker reads it.
    let text = String::from_utf8_lossy(bytes);
    let Ok(layers) = Layers::parse(&text) else { return };
    let names: HashSet<&str> = layers.names().collect();
    assert_eq!(names.len(), layers.names().len(), "two layers have one name");
    assert!((1..=64).contains(&names.len()));

    let mut printed = String::new();
    for (name, paths) in layers.layers() {
        printed += &format!("- \"{name}\":\n");
        for path in paths {
            printed += &format!("  - \"{path}\"\n");
        }
    }
    assert_eq!(Layers::parse(&printed).as_ref(), Ok(&layers), "printed, it is another index");

    let lines: Vec<(usize, &str)> = layers
        .layers()
        .iter()
        .enumerate()
        .flat_map(|(layer, (_, paths))| paths.iter().map(move |path| (layer, path.as_str())))
        .collect();
    for (_, path) in lines.iter().take(20) {
        for entry in [(*path).to_owned(), format!("{path}x"), format!("{path}/x")] {
            // Spring Boot's rule, line by line.
            let fits =
                |line: &str| entry == line || (line.ends_with('/') && entry.starts_with(line));
            let first = lines.iter().find(|(_, line)| fits(line)).map(|(layer, _)| *layer);
            assert_eq!(layers.layer_of(&entry), first, "{entry:?}");
        }
    }
});
