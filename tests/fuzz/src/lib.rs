// SPDX-License-Identifier: Apache-2.0

//! What several fuzz targets share: the properties of an archive, and writing the first inputs.
//!
//! A target states what must be true of every input, not only that none panics: that is how it finds
//! a wrong answer. The inputs a fuzzer starts from are texts in `seeds`, and for binary formats come
//! from the writers that the unit tests use; the repository holds no binary files.

pub mod archive;
pub mod seeds;
