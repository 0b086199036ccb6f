// SPDX-License-Identifier: Apache-2.0

//! Where a store is: a directory or a URL.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use url::Url;

use super::StoreError;

/// The schemes of clouds, with the feature of this crate that brings each.
const CLOUDS: [(&str, &str, bool); 8] = [
    ("s3", "s3", cfg!(feature = "s3")),
    ("s3a", "s3", cfg!(feature = "s3")),
    ("gs", "gcs", cfg!(feature = "gcs")),
    ("az", "azure", cfg!(feature = "azure")),
    ("adl", "azure", cfg!(feature = "azure")),
    ("azure", "azure", cfg!(feature = "azure")),
    ("abfs", "azure", cfg!(feature = "azure")),
    ("abfss", "azure", cfg!(feature = "azure")),
];

/// Where a store is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    Directory(PathBuf),
    Cloud(Url),
}

impl Location {
    /// Reads a path or a URL. Messages show only the scheme of a URL, because the rest may hold a
    /// password.
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        let Some((scheme, _)) = text.split_once("://") else {
            return match text {
                "" => Err(StoreError::InvalidUrl("an empty text".into())),
                path => Ok(Self::Directory(path.into())),
            };
        };
        let malformed = || StoreError::InvalidUrl(format!("this {scheme}:// URL"));
        let url = Url::parse(text).map_err(|_| malformed())?;
        if url.scheme() == "file" {
            return url.to_file_path().map(Self::Directory).map_err(|()| malformed());
        }
        match CLOUDS.iter().find(|(known, ..)| *known == url.scheme()) {
            Some((_, _, true)) => Ok(Self::Cloud(url)),
            Some((_, feature, false)) => {
                Err(StoreError::Unsupported { scheme: url.scheme().to_owned(), feature })
            }
            None => Err(malformed()),
        }
    }
}

/// Opens a bucket. Region, endpoint and credentials are read from the environment variables that
/// the cloud's own tools use.
pub(super) fn open_cloud(url: &Url) -> Result<Arc<dyn ObjectStore>, StoreError> {
    #[cfg(feature = "cloud")]
    // A provider that was installed before stays. Without one, the HTTP client cannot start.
    drop(rustls::crypto::ring::default_provider().install_default());
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        // Without this filter, an unrelated `ENDPOINT` or `TOKEN` would configure the store.
        let known = ["AWS_", "GOOGLE_", "AZURE_"];
        known.iter().any(|prefix| name.starts_with(prefix)).then_some((name, value))
    });
    let (store, prefix) = object_store::parse_url_opts(url, variables)
        .map_err(|error| StoreError::of_object("open the store", error))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_file_urls_are_directories() {
        for (text, path) in
            [("data", "data"), ("/var/lib/x", "/var/lib/x"), ("file:///var/a%20b", "/var/a b")]
        {
            let location = Location::parse(text).expect(text);
            assert_eq!(location, Location::Directory(path.into()));
        }
    }

    #[test]
    fn what_names_no_store_is_refused_without_its_password() {
        for text in
            ["", "://", "ftp://user:secret@host/x", "file://host/x", "http://[", "-://secret"]
        {
            let error = Location::parse(text).expect_err(text);
            assert!(matches!(error, StoreError::InvalidUrl(_)), "{text}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
            assert!(!error.is_transient());
        }
    }

    #[test]
    fn a_cloud_that_was_not_built_in_is_named_with_what_to_do() {
        for (scheme, feature, built_in) in CLOUDS {
            let result = Location::parse(&format!("{scheme}://bucket/prefix"));
            match result {
                Ok(Location::Cloud(_)) => assert!(built_in, "{scheme}"),
                Err(StoreError::Unsupported { scheme: named, feature: with }) => {
                    assert_eq!((named.as_str(), with, built_in), (scheme, feature, false));
                }
                other => panic!("{scheme}: {other:?}"),
            }
        }
    }
}
