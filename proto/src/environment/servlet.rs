// SPDX-License-Identifier: Apache-2.0

//! Whether an environment's server has the servlet API of a WAR, and what is said about it.

use crate::artifact::{ServletApi, WarFacts};
use crate::request::Note;

/// The API assumed for a WAR in which nothing tells it.
const DEFAULT_API: ServletApi = ServletApi::Jakarta;

/// Returns the API by which a server is chosen.
pub(super) fn wanted(war: &WarFacts) -> ServletApi {
    war.servlet_api.unwrap_or(DEFAULT_API)
}

/// Returns the API as people call it.
fn name(api: ServletApi) -> &'static str {
    match api {
        ServletApi::Javax => "javax.servlet",
        ServletApi::Jakarta => "jakarta.servlet",
        ServletApi::Jakarta61 => "jakarta.servlet 6.1",
    }
}

/// Says how a server's API differs from the WAR's, if it lacks something.
fn difference(war: &WarFacts, serves: ServletApi) -> Option<String> {
    let needed = war.servlet_api?;
    let is_other_package = needed.package() != serves.package();
    if !is_other_package && (needed != ServletApi::Jakarta61 || serves == needed) {
        return None;
    }
    let remedy = match needed {
        ServletApi::Javax => "choose Tomcat 9, or migrate the application",
        ServletApi::Jakarta => "choose Tomcat 10 or newer",
        ServletApi::Jakarta61 => "choose Tomcat 11",
    };
    let implemented = match serves {
        ServletApi::Jakarta if !is_other_package => "jakarta.servlet 6.0",
        serves => name(serves),
    };
    let needs = match &war.servlet.told_by {
        Some(told_by) => format!("{told_by} needs {}", name(needed)),
        None => format!("the WAR is written for {}", name(needed)),
    };
    Some(format!("{needs}, and the server implements {implemented}: {remedy}"))
}

/// Returns whether the difference stops the WAR for certain.
fn is_certain(war: &WarFacts, serves: ServletApi) -> bool {
    let is_other_package = wanted(war).package() != serves.package();
    let facts = &war.servlet;
    // What an older version of Slipway stored does not say how sure it is.
    let is_old = facts.told_by.is_none();
    if is_other_package { facts.is_package_certain || is_old } else { facts.is_version_certain }
}

/// Says why a server cannot serve a WAR.
pub(super) fn refusal(war: &WarFacts, serves: ServletApi) -> Option<String> {
    difference(war, serves).filter(|_| is_certain(war, serves))
}

/// Returns what is to be said about a WAR on a server, or on one that is not known.
pub(super) fn notes(war: &WarFacts, serves: Option<ServletApi>, is_chosen: bool) -> Vec<Note> {
    let mut notes = Vec::new();
    match (war.servlet_api, &war.servlet.told_by) {
        (Some(api), Some(told_by)) => {
            notes.push(Note::found(format!("{} is needed by {told_by}", name(api))));
        }
        (Some(api), None) => notes.push(Note::found(format!("it is written for {}", name(api)))),
        (None, _) if is_chosen => notes.push(Note::warning(format!(
            "nothing in the WAR tells its servlet API: {} is assumed; if it is written for \
            javax.servlet, every address will be 404, so name the environment tomcat-9",
            name(DEFAULT_API)
        ))),
        (None, _) => {}
    }
    let difference = serves.and_then(|serves| difference(war, serves));
    notes.extend(difference.map(Note::warning));
    notes
}
