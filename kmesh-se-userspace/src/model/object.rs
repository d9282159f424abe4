//! Objects as written, before validation.
//!
//! In: deserialised YAML or JSON. Out: ServiceEntry and WorkloadEntry with every field of the API.
//! Never: a judgement about their values.

/// An object of one of the kinds that are read.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    // ServiceEntry(..), WorkloadEntry(..)
}
