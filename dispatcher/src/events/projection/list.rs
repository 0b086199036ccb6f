// SPDX-License-Identifier: Apache-2.0

//! Lists of builds, newest first, a page at a time.
//!
//! A page starts after the last row of the previous one (time and id), not at an offset, so it
//! costs the same at any depth and does not shift when builds arrive. A query over several states
//! runs once for each state and is merged. Each part is then a run of one index in the order of the
//! answer, whatever the filters, and never a scan or a sort of all builds.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::{Connection, ToSql, params};
use slipway_proto::api::StateName;
use slipway_proto::{Build, BuildId, ProjectName, Reference};

use super::ProjectionError;

/// What to list.
#[derive(Debug, Clone)]
pub(crate) struct ListQuery {
    /// The project.
    pub(crate) project: ProjectName,
    /// The states to list; all if empty.
    pub(crate) states: Vec<StateName>,
    /// Only builds of this image.
    pub(crate) image: Option<ImageFilter>,
    /// Only builds whose id begins so, in place of all other filters.
    pub(crate) id: Option<IdPrefix>,
    /// The largest number of builds.
    pub(crate) limit: usize,
    /// Only builds after this one.
    pub(crate) after: Option<Cursor>,
}

/// Compares with a build's main reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageFilter {
    /// With its tag.
    Tagged(String),
    /// With any tag.
    Repository(String),
}

impl From<Reference> for ImageFilter {
    fn from(reference: Reference) -> Self {
        match reference.tag() {
            Some(_) => Self::Tagged(reference.to_string()),
            None => Self::Repository(reference.name()),
        }
    }
}

/// The beginning of a build's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdPrefix {
    /// The first and the last id that begin so.
    first: [u8; 16],
    last: [u8; 16],
}

/// A text that no id begins with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not the beginning of a build's id: write its first characters, 0 to 9, a to f and dashes"
)]
pub(crate) struct ParseIdPrefixError;

impl FromStr for IdPrefix {
    type Err = ParseIdPrefixError;

    fn from_str(text: &str) -> Result<Self, ParseIdPrefixError> {
        const DASHES: [usize; 4] = [8, 13, 18, 23];
        let (mut first, mut last) = ([0; 16], [0xff; 16]);
        let mut digits = 0;
        for (place, byte) in text.bytes().enumerate() {
            if DASHES.contains(&place) {
                if byte == b'-' {
                    continue;
                }
                return Err(ParseIdPrefixError);
            }
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return Err(ParseIdPrefixError),
            };
            let place: usize = digits / 2;
            if place >= first.len() {
                return Err(ParseIdPrefixError);
            }
            if digits % 2 == 0 {
                first[place] = digit << 4;
                last[place] = digit << 4 | 0xf;
            } else {
                first[place] |= digit;
                last[place] = first[place];
            }
            digits += 1;
        }
        if digits == 0 { Err(ParseIdPrefixError) } else { Ok(Self { first, last }) }
    }
}

/// The end of a page; opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    accepted_at: i64,
    id: BuildId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(format!("{}.{}", self.accepted_at, self.id)))
    }
}

/// A text that is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a cursor: pass the `next_cursor` of the previous page")]
pub(crate) struct ParseCursorError;

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ParseCursorError)?;
        let text = str::from_utf8(&bytes).map_err(|_| ParseCursorError)?;
        let (time, id) = text.split_once('.').ok_or(ParseCursorError)?;
        Ok(Self {
            accepted_at: time.parse().map_err(|_| ParseCursorError)?,
            id: id.parse().map_err(|_| ParseCursorError)?,
        })
    }
}

/// A page of builds.
#[derive(Debug)]
pub(crate) struct Page {
    /// The builds, newest first.
    pub(crate) builds: Vec<Build>,
    /// Where the next page starts; `None` after the last.
    pub(crate) next: Option<Cursor>,
}

/// A page from the file.
#[derive(Debug)]
pub(super) struct Rows {
    bodies: Vec<String>,
    next: Option<Cursor>,
}

impl Rows {
    pub(super) fn into_page(self) -> Result<Page, ProjectionError> {
        let builds = self.bodies.iter().map(|body| serde_json::from_str(body));
        let builds = builds.collect::<Result<_, _>>().map_err(ProjectionError::Malformed)?;
        Ok(Page { builds, next: self.next })
    }
}

/// The number of a state in a row.
pub(super) fn state_number(state: StateName) -> i64 {
    let position = StateName::ALL.iter().position(|known| *known == state);
    position.and_then(|position| i64::try_from(position).ok()).unwrap_or(i64::MAX)
}

/// The state of a row's number.
pub(super) fn state_of_number(number: i64) -> StateName {
    let position = usize::try_from(number).ok();
    let state = position.and_then(|position| StateName::ALL.get(position));
    *state.expect("rows have the numbers of states")
}

pub(super) fn rows(connection: &Connection, query: &ListQuery) -> rusqlite::Result<Rows> {
    let states = if query.states.is_empty() { &StateName::ALL[..] } else { &query.states };
    // One snapshot, because a build that changes its state meanwhile would be found twice, or not
    // at all.
    let snapshot = connection.unchecked_transaction()?;
    let mut found = Vec::new();
    match &query.id {
        Some(prefix) => by_id(&snapshot, query, prefix, &mut found)?,
        None => {
            for state in states {
                part(&snapshot, query, *state, &mut found)?;
            }
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    let mut body = snapshot.prepare_cached("SELECT body FROM bodies WHERE number = ?1")?;
    let bodies = found
        .iter()
        .map(|(.., number)| body.query_row([number], |row| row.get(0)))
        .collect::<rusqlite::Result<_>>()?;
    let next = found.last().filter(|_| more);
    let next = next.map(|&(accepted_at, id, _)| Cursor { accepted_at, id });
    Ok(Rows { bodies, next })
}

/// Adds the rows of one state, one more than the limit, as time, id and row number.
fn part(
    connection: &Connection,
    query: &ListQuery,
    state: StateName,
    found: &mut Vec<(i64, BuildId, i64)>,
) -> rusqlite::Result<()> {
    let (sql, image) = match &query.image {
        None => (statement(""), ""),
        Some(ImageFilter::Tagged(image)) => (statement("image = ?6 AND"), image.as_str()),
        Some(ImageFilter::Repository(name)) => (statement("repository = ?6 AND"), name.as_str()),
    };
    let after = query.after.as_ref();
    // After every row: a time that no row has.
    let time = after.map_or(i64::MAX, |cursor| cursor.accepted_at);
    let id = after.map_or(&[][..], |cursor| cursor.id.as_bytes().as_slice());
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX - 1) + 1;
    let project = query.project.as_str();
    let state = state_number(state);
    let mut values: Vec<&dyn ToSql> = params![project, state, time, id, limit].to_vec();
    if !image.is_empty() {
        values.push(&image);
    }
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(values.as_slice(), |row| {
        Ok((row.get(0)?, BuildId::from_bytes(row.get(1)?), row.get(2)?))
    })?;
    for row in rows {
        found.push(row?);
    }
    Ok(())
}

/// Adds the rows whose id begins so, one more than the limit.
fn by_id(
    connection: &Connection,
    query: &ListQuery,
    prefix: &IdPrefix,
    found: &mut Vec<(i64, BuildId, i64)>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT accepted_at, id, number FROM builds
         WHERE project = ?1 AND id BETWEEN ?2 AND ?3 ORDER BY id LIMIT ?4",
    )?;
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX - 1) + 1;
    let (first, last) = (&prefix.first[..], &prefix.last[..]);
    let rows = statement.query_map(params![query.project.as_str(), first, last, limit], |row| {
        Ok((row.get(0)?, BuildId::from_bytes(row.get(1)?), row.get(2)?))
    })?;
    for row in rows {
        found.push(row?);
    }
    Ok(())
}

pub(super) fn statement(image: &str) -> String {
    format!(
        "SELECT accepted_at, id, number FROM builds
         WHERE {image} project = ?1 AND state = ?2 AND (accepted_at, id) < (?3, ?4)
         ORDER BY accepted_at DESC, id DESC LIMIT ?5"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_a_range_of_ids() {
        let id: BuildId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().expect("an id");
        let whole = id.to_string();
        for length in 1..=whole.len() {
            let prefix: IdPrefix = whole[..length].parse().expect("a beginning");
            let range = prefix.first..=prefix.last;
            assert!(range.contains(id.as_bytes()), "{length}");
        }
        let prefix: IdPrefix = "018".parse().expect("a beginning");
        assert_eq!(
            (prefix.first[..2].to_vec(), prefix.last[..2].to_vec()),
            (vec![1, 0x80], vec![1, 0x8f])
        );
        for wrong in ["", "-", "0189-", "01890A", "x", &format!("{whole}0"), "01890a5d0"] {
            assert!(wrong.parse::<IdPrefix>().is_err(), "{wrong}");
        }
    }
}
