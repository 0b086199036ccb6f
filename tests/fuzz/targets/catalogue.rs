// SPDX-License-Identifier: Apache-2.0

//! Any text as an operator's catalogue of environments.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use slipway_proto::artifact::{ArtifactFacts, JarFacts, WarFacts};
use slipway_proto::environment::{AUTO, Catalogue};

fuzz_target!(|text: &str| {
    let built_in = Catalogue::default().environments().len();
    let Ok(catalogue) = Catalogue::default().extended(text) else { return };
    assert!(catalogue.environments().len() >= built_in, "a built-in environment is gone");
    for environment in catalogue.environments() {
        let found = catalogue.find(&environment.name).expect("it is found by its name");
        assert_eq!(&found, environment);
        for alias in &environment.aliases {
            catalogue.find(alias).expect("one is found by each alias");
        }
        for tag in &environment.tags {
            let name = format!("{}:{tag}", environment.name);
            catalogue.find(&name).expect("it is found with each tag");
        }
    }
    for facts in [ArtifactFacts::Jar(JarFacts::default()), ArtifactFacts::War(WarFacts::default())]
    {
        if let Ok(chosen) = catalogue.choose(AUTO, &facts, false) {
            assert!(chosen.environment.kinds.contains(&facts.kind()));
        }
    }
    // A catalogue that is printed is the same catalogue.
    let file = BTreeMap::from([("environment", catalogue.environments())]);
    let printed = toml::to_string(&file).expect("it can be written");
    let again = Catalogue::default().extended(&printed).expect("it was just written");
    let sorted = |catalogue: &Catalogue| {
        let mut environments = catalogue.environments().to_vec();
        environments.sort_by(|one, other| one.name.cmp(&other.name));
        environments
    };
    assert_eq!(sorted(&again), sorted(&catalogue));
});
