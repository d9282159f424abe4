//! The only vocabulary that the BPF programs and user space share: addresses, map keys and values, limits.
//!
//! In: nothing. Out: plain types with a fixed layout. Never: code that needs `std`.
#![no_std]

pub mod addr;
pub mod limits;
pub mod maps;
