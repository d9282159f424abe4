//! Descriptors that tokio waits for.
//!
//! In: values that own a descriptor. Out: the same, registered. Never: a read.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// A value that owns its descriptor for as long as it lives, as [`AsFd`] promises.
#[derive(Debug)]
pub(crate) struct Owning<T>(pub(crate) T);

impl<T: AsFd> AsRawFd for Owning<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Registers `value` with the current runtime.
///
/// # Errors
/// The descriptor cannot be polled.
pub(crate) fn register<T: AsFd>(value: T, interest: Interest) -> io::Result<AsyncFd<Owning<T>>> {
    // SAFETY: `as_raw_fd` gives the descriptor that the value owns; nothing takes the value out while it is registered.
    unsafe { AsyncFd::register_with_interest(Owning(value), interest) }.map_err(io::Error::from)
}
