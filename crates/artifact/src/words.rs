// SPDX-License-Identifier: Apache-2.0

//! Divides a text into words as a POSIX shell does: blanks, quotes, backslashes, and variables where
//! somebody tells their values (Shell Command Language, 2.2 and 2.6).
//!
//! Not a shell: nothing is executed, and what would be executed is an error.

use std::fmt;

/// Why a text has no words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WordsError {
    /// A quote is not closed.
    OpenQuote(char),
    /// There is nothing behind the last backslash.
    LoneBackslash,
    /// A variable's value is not known.
    UnknownVariable(String),
    /// Something that only a shell can work out.
    Command,
}

impl std::error::Error for WordsError {}

impl fmt::Display for WordsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenQuote(quote) => write!(f, "the quote {quote} is not closed"),
            Self::LoneBackslash => f.write_str("there is nothing behind the last backslash"),
            Self::UnknownVariable(name) => write!(f, "the value of ${name} is not known"),
            Self::Command => f.write_str("a part of it is the output of a command"),
        }
    }
}

/// Divides a text into words. `$` has no meaning.
///
/// # Errors
///
/// When a quote is open, or the text ends with a backslash.
pub fn split(text: &str) -> Result<Vec<String>, WordsError> {
    Splitter { rest: text.chars().peekable(), value: None }.words()
}

/// Divides a text into words after replacing variables. `value` tells what a variable holds; the
/// arguments of a script (`$@`) are none.
///
/// # Errors
///
/// As [`split`], and for variables without a value and commands.
pub fn expand(
    text: &str,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, WordsError> {
    Splitter { rest: text.chars().peekable(), value: Some(value) }.words()
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

struct Splitter<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    value: Option<Lookup<'a>>,
}

impl Splitter<'_> {
    fn words(mut self) -> Result<Vec<String>, WordsError> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        while let Some(character) = self.rest.next() {
            match character {
                ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
                '\'' => self.single(word.get_or_insert_default())?,
                '"' => self.double(&mut word)?,
                '\\' => match self.rest.next() {
                    // A line goes on.
                    Some('\n') => {}
                    Some(next) => word.get_or_insert_default().push(next),
                    None => return Err(WordsError::LoneBackslash),
                },
                '`' if self.value.is_some() => return Err(WordsError::Command),
                '$' if self.value.is_some() => match self.variable()? {
                    None => {}
                    Some(value) => {
                        // Without quotes, a value is divided again.
                        for part in value.split_inclusive(|c: char| c.is_ascii_whitespace()) {
                            let text = part.trim_ascii();
                            if !text.is_empty() {
                                word.get_or_insert_default().push_str(text);
                            }
                            if text.len() < part.len() {
                                words.extend(word.take());
                            }
                        }
                    }
                },
                other => word.get_or_insert_default().push(other),
            }
        }
        words.extend(word);
        Ok(words)
    }

    fn single(&mut self, word: &mut String) -> Result<(), WordsError> {
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(other) => word.push(other),
                None => return Err(WordsError::OpenQuote('\'')),
            }
        }
    }

    fn double(&mut self, word: &mut Option<String>) -> Result<(), WordsError> {
        let mut has_arguments = false;
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('"') => break,
                Some('\\') => match self.rest.next() {
                    Some('\n') => {}
                    Some(next @ ('"' | '\\' | '$' | '`')) => text.push(next),
                    Some(next) => text.extend(['\\', next]),
                    None => return Err(WordsError::LoneBackslash),
                },
                Some('`') if self.value.is_some() => return Err(WordsError::Command),
                Some('$') if self.value.is_some() => match self.variable()? {
                    Some(value) => text.push_str(&value),
                    None => has_arguments = true,
                },
                Some(other) => text.push(other),
                None => return Err(WordsError::OpenQuote('"')),
            }
        }
        // `"$@"` without arguments is no word at all.
        if !(has_arguments && text.is_empty()) {
            word.get_or_insert_default().push_str(&text);
        }
        Ok(())
    }

    /// Reads a variable behind its `$`. `None` for the arguments.
    fn variable(&mut self) -> Result<Option<String>, WordsError> {
        let is_name = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
        let mut name = String::new();
        match self.rest.peek() {
            Some('@' | '*') => {
                self.rest.next();
                return Ok(None);
            }
            Some('(') => return Err(WordsError::Command),
            Some('$') => {
                self.rest.next();
                name.push('$');
            }
            Some('{') => {
                self.rest.next();
                while let Some(character) = self.rest.next_if(is_name) {
                    name.push(character);
                }
                if self.rest.next() != Some('}') {
                    return Err(WordsError::UnknownVariable(name));
                }
            }
            _ => {
                while let Some(character) = self.rest.next_if(is_name) {
                    name.push(character);
                }
                if name.is_empty() {
                    return Ok(Some("$".to_owned()));
                }
            }
        }
        let value = self.value.and_then(|value| value(&name));
        value.map(Some).ok_or(WordsError::UnknownVariable(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_quotes_and_backslashes_divide_as_a_shell_does() {
        for (text, words) in [
            ("java -jar app.jar", &["java", "-jar", "app.jar"][..]),
            ("  a\t b\n", &["a", "b"]),
            (r#"sh -c "echo \"$HOME\" \x" '' "#, &["sh", "-c", r#"echo "$HOME" \x"#, ""]),
            (r"a\ b 'c d'e\'", &["a b", "c de'"]),
            ("a\\\nb", &["ab"]),
            ("", &[]),
            ("`ls` $(ls)", &["`ls`", "$(ls)"]),
        ] {
            assert_eq!(split(text).expect(text), words, "{text}");
        }
        assert_eq!(split("a 'b"), Err(WordsError::OpenQuote('\'')));
        assert_eq!(split("a \"b"), Err(WordsError::OpenQuote('"')));
        assert_eq!(split("a\\"), Err(WordsError::LoneBackslash));
    }

    #[test]
    fn variables_are_replaced_and_the_arguments_are_none() {
        let value = |name: &str| match name {
            "HOME" => Some("/a b".to_owned()),
            "OPTS" => Some(" -x  -y ".to_owned()),
            "NONE" => Some(String::new()),
            "$" => Some("1".to_owned()),
            _ => None,
        };
        for (text, words) in [
            ("\"$HOME/x\" ${NONE} \"$NONE\"", &["/a b/x", ""][..]),
            ("p$OPTS. z", &["p", "-x", "-y", ".", "z"]),
            ("'$HOME' \\$HOME $ -p\"$$\"", &["$HOME", "$HOME", "$", "-p1"]),
            ("a \"$@\" $@ $*", &["a"]),
        ] {
            assert_eq!(expand(text, &value).expect(text), words, "{text}");
        }
        let unknown = |name: &str| Err(WordsError::UnknownVariable(name.to_owned()));
        assert_eq!(expand("$OTHER", &value), unknown("OTHER"));
        assert_eq!(expand("${HOME:-x}", &value), unknown("HOME"));
        for text in ["`ls`", "\"$(ls)\"", "$((1))"] {
            assert_eq!(expand(text, &value), Err(WordsError::Command), "{text}");
        }
    }
}
