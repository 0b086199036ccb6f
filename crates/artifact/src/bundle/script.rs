// SPDX-License-Identifier: Apache-2.0

//! Start scripts that build tools write into `bin/`: Gradle's `application` plugin and Maven's
//! appassembler plugin.
//!
//! Such a script looks for Java and puts a command together. An image has its Java at one place, so
//! the command can be known beforehand: then Java is the first process without a shell script of
//! hundreds of lines in front of it, on a base that may have no shell. Only what is certain is taken:
//! a script that was changed so that its command depends on something else is not recognised.

use crate::words::{WordsError, expand, split};

/// A longer file is no start script. Gradle's have some 10 KiB and the class path.
pub const LONGEST_SCRIPT: usize = 1 << 20;

/// Options of Java behind which a value follows as a word of its own.
const WITH_VALUE: [&str; 13] = [
    "-classpath",
    "-cp",
    "--class-path",
    "-p",
    "--module-path",
    "--upgrade-module-path",
    "--add-modules",
    "--add-exports",
    "--add-opens",
    "--add-reads",
    "--patch-module",
    "--limit-modules",
    "--source",
];

/// The command that a start script runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Everything behind `java`: options, class path, main class, first arguments.
    pub arguments: Vec<String>,
    /// Class path and module path in their order, below the bundle's directory, without the slash
    /// in front. What lies elsewhere is left out.
    pub path: Vec<String>,
    /// The main class, or module and class.
    pub main: String,
}

impl Script {
    /// Reads the script `name` of a bundle that lies in the directory `home` of the image.
    ///
    /// `None` for whatever is not a start script whose command is known.
    #[must_use]
    pub fn parse(text: &str, name: &str, home: &str) -> Option<Self> {
        if !text.starts_with("#!") {
            return None;
        }
        let lines = logical_lines(text);
        let variables = Variables { lines: &lines, name, home };
        let words = lines.iter().find_map(|line| command(line, &variables))?;
        Self::of(words, home)
    }

    fn of(words: Vec<String>, home: &str) -> Option<Self> {
        let mut paths = Vec::new();
        let mut rest = words.iter();
        let main = loop {
            let word = rest.next()?;
            if matches!(word.as_str(), "-m" | "--module") {
                break rest.next()?;
            }
            if WITH_VALUE.contains(&word.as_str()) {
                let value = rest.next()?;
                if WITH_VALUE[..5].contains(&word.as_str()) {
                    paths.extend(value.split(':'));
                }
            } else if let Some(value) =
                ["--class-path=", "--module-path="].iter().find_map(|key| word.strip_prefix(key))
            {
                paths.extend(value.split(':'));
            } else if !word.starts_with('-') {
                break word;
            }
        };
        let below = |path: &str| Some(path.strip_prefix(home)?.strip_prefix('/')?.to_owned());
        let path: Vec<String> = paths.into_iter().filter_map(below).collect();
        let main = main.clone();
        (!path.is_empty()).then_some(Self { arguments: words, path, main })
    }
}

/// Joins lines that end with a backslash, and leaves comments out.
fn logical_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\r\n", "\n").replace("\\\n", " ");
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with('#');
    joined.lines().map(str::trim).filter(is_code).map(str::to_owned).collect()
}

/// The variables of a script, as far as their values do not depend on the machine.
struct Variables<'a> {
    lines: &'a [String],
    name: &'a str,
    home: &'a str,
}

impl Variables<'_> {
    fn value(&self, variable: &str) -> Option<String> {
        match variable {
            "APP_BASE_NAME" => Some(self.name.to_owned()),
            "JAVACMD" => Some("java".to_owned()),
            // The first process of a container.
            "$" => Some("1".to_owned()),
            // Set by the person who starts the script, if at all.
            "JAVA_OPTS" | "APP_OPTS" | "APP_ARGS" | "GC_OPTS" => Some(String::new()),
            "CLASSPATH" | "MODULE_PATH" | "DEFAULT_JVM_OPTS" => {
                self.assigned(variable, &|name| self.place(name))
            }
            other if other == format!("{}_OPTS", own_prefix(self.name)) => Some(String::new()),
            other => self.place(other),
        }
    }

    /// Returns the value of a variable that names a directory.
    fn place(&self, variable: &str) -> Option<String> {
        match variable {
            "APP_HOME" | "BASEDIR" => Some(self.home.to_owned()),
            "REPO" => self.assigned("REPO", &|name| match name {
                "APP_HOME" | "BASEDIR" => Some(self.home.to_owned()),
                _ => None,
            }),
            _ => None,
        }
    }

    /// Returns the first value that a script gives a variable and that is not empty: those behind it
    /// change it for Windows or by what the person who starts it has set. `value` tells the values of
    /// other variables, and not of this one, so that there is an end.
    fn assigned(&self, variable: &str, value: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let prefix = format!("{variable}=");
        let assigned = self.lines.iter().filter_map(|line| line.strip_prefix(&prefix));
        let mut words = assigned.map(|text| expand(text, value).ok());
        let is_last = |words: &Option<Vec<String>>| !words.as_ref().is_some_and(Vec::is_empty);
        Some(words.find(is_last)??.join(" "))
    }

    fn expand(&self, text: &str) -> Result<Vec<String>, WordsError> {
        expand(text, &|name| self.value(name))
    }
}

/// Gradle names a variable after the script: `my-app` is asked for `MY_APP_OPTS`.
fn own_prefix(name: &str) -> String {
    let upper = |character: char| {
        if character.is_ascii_alphanumeric() { character.to_ascii_uppercase() } else { '_' }
    };
    name.chars().map(upper).collect()
}

/// Returns the words behind `java`, if a line is the one that runs or prepares the command.
fn command(line: &str, variables: &Variables<'_>) -> Option<Vec<String>> {
    if !["-classpath ", "-cp ", "--class-path ", "--module-path ", "-p "]
        .iter()
        .any(|option| line.contains(option))
    {
        return None;
    }
    let words = if let Some(rest) = line.strip_prefix("eval set -- ") {
        // What `eval` does: the words are read once more.
        variables.expand(&variables.expand(rest).ok()?.join(" ")).ok()?
    } else if let Some(rest) = line.strip_prefix("set -- ") {
        // Options that stand in front of these words later in the script.
        let mut words = split(&variables.value("DEFAULT_JVM_OPTS").unwrap_or_default()).ok()?;
        for word in &mut words {
            *word =
                word.replace("$APP_HOME", variables.home).replace("${APP_HOME}", variables.home);
        }
        words.extend(variables.expand(rest).ok()?);
        words
    } else {
        let mut words = variables.expand(line.strip_prefix("exec ").unwrap_or(line)).ok()?;
        if words.first()? != "java" {
            return None;
        }
        words.remove(0);
        words
    };
    // Variables of the person who starts it stand here as empty words, where they are quoted.
    Some(words.into_iter().filter(|word| !word.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Gradle 8's template writes it, without what looks for Java and for Cygwin.
    const GRADLE_8: &str = r##"#!/bin/sh
#
# Copyright © 2015-2021 the original authors.
#
app_path=$0
APP_BASE_NAME=${0##*/}
APP_HOME=$( cd -P "${APP_HOME:-./}.." > /dev/null && printf '%s\n' "$PWD" ) || exit
# Add default JVM options here. You can also use JAVA_OPTS and SHOP_OPTS to pass JVM options to this script.
DEFAULT_JVM_OPTS='"-Xmx64m" "-Dconf=$APP_HOME/conf dir"'
CLASSPATH=$APP_HOME/lib/shop.jar:$APP_HOME/lib/z-1.jar:$APP_HOME/lib/a-2.jar
if "$cygwin" || "$msys" ; then
    CLASSPATH=$( cygpath --path --mixed "$CLASSPATH" )
fi
set -- \
        -Dorg.gradle.appname="$APP_BASE_NAME" \
        -classpath "$CLASSPATH" \
        com.example.Shop \
        "$@"
eval "set -- $(
        printf '%s\n' "$DEFAULT_JVM_OPTS $JAVA_OPTS $SHOP_OPTS" |
        xargs -n1 |
        tr '\n' ' '
    )" '"$@"'
exec "$JAVACMD" "$@"
"##;

    #[test]
    fn a_script_of_gradle_says_options_class_path_and_main_class() {
        let script = Script::parse(GRADLE_8, "shop", "/app").expect("it is one");
        assert_eq!(
            script.arguments,
            [
                "-Xmx64m",
                "-Dconf=/app/conf dir",
                "-Dorg.gradle.appname=shop",
                "-classpath",
                "/app/lib/shop.jar:/app/lib/z-1.jar:/app/lib/a-2.jar",
                "com.example.Shop",
            ]
        );
        assert_eq!(script.path, ["lib/shop.jar", "lib/z-1.jar", "lib/a-2.jar"]);
        assert_eq!(script.main, "com.example.Shop");
    }

    #[test]
    fn a_script_of_gradle_6_is_read_through_its_eval() {
        let text = r##"#!/usr/bin/env sh
APP_HOME="`pwd -P`"
DEFAULT_JVM_OPTS='"-Xss2m" "-Dx=a b"'
CLASSPATH=$APP_HOME/lib/shop.jar:$APP_HOME/lib/dep.jar
eval set -- $DEFAULT_JVM_OPTS $JAVA_OPTS $SHOP_OPTS -classpath "\"$CLASSPATH\"" com.example.Shop "$APP_ARGS"
exec "$JAVACMD" "$@"
"##;
        let script = Script::parse(text, "shop", "/srv/shop").expect("it is one");
        let class_path = "/srv/shop/lib/shop.jar:/srv/shop/lib/dep.jar";
        assert_eq!(
            script.arguments,
            ["-Xss2m", "-Dx=a b", "-classpath", class_path, "com.example.Shop"]
        );
    }

    #[test]
    fn a_script_of_gradle_for_modules_has_a_module_path() {
        let text = GRADLE_8
            .replace("CLASSPATH=$APP_HOME", "MODULE_PATH=$APP_HOME")
            .replace("-classpath \"$CLASSPATH\"", "--module-path \"$MODULE_PATH\"")
            .replace("com.example.Shop \\", "--module shop/com.example.Shop \\");
        let script = Script::parse(&text, "shop", "/app").expect("it is one");
        assert_eq!(script.main, "shop/com.example.Shop");
        assert_eq!(script.path.first().map(String::as_str), Some("lib/shop.jar"));
    }

    /// As appassembler's template writes it.
    const APPASSEMBLER: &str = r##"#!/bin/sh
# resolve links - $0 may be a softlink
PRG="$0"
PRGDIR=`dirname "$PRG"`
BASEDIR=`cd "$PRGDIR/.." >/dev/null; pwd`
REPO=
if [ -z "$REPO" ]
then
  REPO="$BASEDIR"/repo
fi
CLASSPATH="$BASEDIR"/etc:"$REPO"/org/x/dep/1.0/dep-1.0.jar:"$REPO"/shop-1.0.jar
ENDORSED_DIR=
if [ -n "$ENDORSED_DIR" ] ; then
  CLASSPATH=$BASEDIR/$ENDORSED_DIR/*:$CLASSPATH
fi
exec "$JAVACMD" $JAVA_OPTS -Xms128m -XX:+UseG1GC \
  -classpath "$CLASSPATH" \
  -Dapp.name="shop" \
  -Dapp.pid="$$" \
  -Dapp.repo="$REPO" \
  -Dapp.home="$BASEDIR" \
  -Dbasedir="$BASEDIR" \
  com.example.Shop \
  serve "$@"
"##;

    #[test]
    fn a_script_of_appassembler_says_the_same() {
        let script = Script::parse(APPASSEMBLER, "shop", "/app").expect("it is one");
        assert_eq!(
            script.arguments,
            [
                "-Xms128m",
                "-XX:+UseG1GC",
                "-classpath",
                "/app/etc:/app/repo/org/x/dep/1.0/dep-1.0.jar:/app/repo/shop-1.0.jar",
                "-Dapp.name=shop",
                "-Dapp.pid=1",
                "-Dapp.repo=/app/repo",
                "-Dapp.home=/app",
                "-Dbasedir=/app",
                "com.example.Shop",
                "serve",
            ]
        );
        assert_eq!(script.path, ["etc", "repo/org/x/dep/1.0/dep-1.0.jar", "repo/shop-1.0.jar"]);
    }

    #[test]
    fn what_is_no_start_script_is_not_taken_for_one() {
        for text in [
            "",
            "#!/bin/sh\nexec node server.js\n",
            "CLASSPATH=$APP_HOME/lib/a.jar\nexec java -cp \"$CLASSPATH\" Main\n",
            // Its command depends on where it is started.
            "#!/bin/sh\nexec \"$JAVACMD\" -classpath \"$EXTRA\" Main \"$@\"\n",
            "#!/bin/sh\nexec \"$JAVACMD\" -classpath \"`build-classpath`\" Main\n",
            "#!/bin/sh\nREPO=$CLASSPATH\nCLASSPATH=$REPO\nexec java -cp \"$CLASSPATH\" Main\n",
            "#!/bin/sh\nCLASSPATH=$CLASSPATH:x\nexec java -classpath \"$CLASSPATH\" Main\n",
            // Nothing of the bundle is on the class path.
            "#!/bin/sh\nexec java -classpath /usr/share/java/x.jar Main\n",
            "#!/bin/sh\nexec java -classpath $APP_HOME/lib/a.jar\n",
        ] {
            assert_eq!(Script::parse(text, "shop", "/app"), None, "{text}");
        }
    }
}
