// SPDX-License-Identifier: Apache-2.0

//! An error with its causes, as one line of text.
//!
//! Our errors never write their source in their own message, so the place that handles an error
//! writes the whole chain, once.

use std::error::Error;

/// Writes an error and its causes in one line, outermost first, each cause once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = plain(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = plain(&cause.to_string());
        // Libraries often repeat their source in their own message.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Writes the innermost cause of an error alone: for libraries that wrap each cause in several
/// layers of their own.
#[must_use]
pub fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    plain(&cause.to_string())
}

/// Removes the numbers of the operating system's errors, ` (os error 2)`: the words before them say
/// the same to people.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        plain.push_str(before);
        match after.split_once(')') {
            Some((number, after)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                rest = after;
            }
            _ => {
                plain.push_str(" (os error ");
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Self>>);

    fn linked(texts: &[&'static str]) -> Link {
        let inner = |inner, text: &&'static str| Some(Box::new(Link(text, inner)));
        *texts.iter().rev().fold(None, inner).expect("there is a text")
    }

    #[test]
    fn a_chain_names_every_cause() {
        let error = linked(&["cannot send", "cannot connect", "refused"]);
        assert_eq!(chain(&error), "cannot send: cannot connect: refused");
        assert_eq!(root_cause(&error), "refused");
    }

    #[test]
    fn a_cause_that_an_outer_message_repeats_is_written_once() {
        let error = linked(&["cannot send", "cannot connect: refused", "refused"]);
        assert_eq!(chain(&error), "cannot send: cannot connect: refused");
    }

    #[test]
    fn numbers_of_the_system_are_left_out() {
        let missing = std::io::Error::from_raw_os_error(2);
        assert_eq!(chain(&missing), "No such file or directory");
        assert_eq!(plain("a (os error 2): b (os error 13)"), "a: b");
        assert_eq!(plain("a (os error x) b (os error "), "a (os error x) b (os error ");
    }

    #[test]
    fn an_error_without_a_cause_is_its_own_root() {
        let error = linked(&["refused"]);
        assert_eq!((chain(&error), root_cause(&error)), ("refused".into(), "refused".into()));
    }
}
