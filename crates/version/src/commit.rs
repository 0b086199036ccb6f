// SPDX-License-Identifier: Apache-2.0

//! The commit of the repository that a package lies in. It asks the program `git`, because a library
//! that reads repositories would be a hundred times as large as what is needed of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What is said of a source tree that is no repository, or on a machine without git.
pub(crate) const UNKNOWN: &str = "unknown";

/// As many digits of the hash as GitHub shows.
const HASH_DIGITS: usize = 7;

/// The commit that is checked out.
pub(crate) struct Commit {
    /// The beginning of its hash and the day its committer saw: `619bace 2026-11-29`.
    pub(crate) text: String,
    /// Files that change when another commit is checked out, or made.
    pub(crate) changes_with: Vec<PathBuf>,
}

impl Commit {
    /// The commit of the workspace that contains `package`.
    ///
    /// `None` if the root of the workspace is not the root of a repository: a source archive that
    /// lies in another project's repository must not take that project's commit.
    pub(crate) fn of(package: &Path) -> Option<Self> {
        let root = package.ancestors().find(|directory| directory.join("Cargo.lock").is_file())?;
        if !root.join(".git").exists() {
            return None;
        }
        let shown = git(root, &["-c", "log.showSignature=false", "show", "-s", "--format=%H %cs"])?;
        let (hash, day) = shown.split_once(' ')?;
        let hash = hash.get(..HASH_DIGITS)?;
        // Both lie elsewhere than in `.git` where a repository has several work trees. The log of
        // HEAD grows with each commit; HEAD alone changes only with the branch.
        let files = git(root, &["rev-parse", "--git-path", "HEAD", "--git-path", "logs/HEAD"])?;
        let changes_with =
            files.lines().map(|file| root.join(file)).filter(|file| file.is_file()).collect();
        Some(Self { text: format!("{hash} {day}"), changes_with })
    }
}

/// Whether the name of a commit from the environment may hold this character.
pub(crate) fn may_hold(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, ' ' | '-' | '.')
}

/// What git prints, without the line end; `None` if there is no git or it failed.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A workspace with one package, `cli`.
    fn workspace() -> TempDir {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("cli")).expect("can be made");
        fs::write(root.path().join("Cargo.lock"), "").expect("can be written");
        root
    }

    fn commit_all(root: &Path) {
        let ann = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"];
        let commit =
            ["-c", "commit.gpgSign=false", "commit", "--quiet", "--allow-empty", "-m", "one"];
        git(root, &["init", "--quiet"]).expect("a repository");
        git(root, &["add", "."]).expect("added");
        git(root, &[ann.as_slice(), commit.as_slice()].concat()).expect("committed");
    }

    #[test]
    fn a_checked_out_commit_is_named_with_its_day() {
        let root = workspace();
        commit_all(root.path());
        let hash = git(root.path(), &["rev-parse", "HEAD"]).expect("a hash");
        let found = Commit::of(&root.path().join("cli")).expect("a commit");
        let (digits, day) = found.text.split_once(' ').expect("two words");
        assert_eq!(digits, &hash[..7]);
        assert_eq!(day.len(), "2026-11-29".len());
    }

    #[test]
    fn the_next_commit_changes_a_watched_file() {
        let root = workspace();
        commit_all(root.path());
        let found = Commit::of(root.path()).expect("a commit");
        let read = || -> Vec<Vec<u8>> {
            found.changes_with.iter().map(|file| fs::read(file).expect("a file")).collect()
        };
        let before = read();
        commit_all(root.path());
        assert_ne!(before, read());
    }

    #[test]
    fn a_directory_without_a_repository_has_no_commit() {
        let root = workspace();
        assert!(Commit::of(&root.path().join("cli")).is_none());
    }

    #[test]
    fn an_archive_in_the_repository_of_another_project_has_no_commit() {
        let outer = workspace();
        commit_all(outer.path());
        let inner = outer.path().join("cli");
        fs::write(inner.join("Cargo.lock"), "").expect("can be written");
        assert!(Commit::of(&inner).is_none());
    }
}
