//! A folder of files as a source.
//!
//! In: `*.yaml`, `*.yml` and `*.json` of one folder. Out: events. Never: the meaning of an object.

mod read;

pub use read::{Listing, ReadError, is_read, list, read};
