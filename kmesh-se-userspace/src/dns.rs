//! The agent's DNS server: answers our names, hands every other query to the resolver that was asked.
//!
//! In: the [`NameTable`] and queries of managed clients. Out: replies, and [`DnsStats`]. Never: a cache, a
//! change to a query or reply that is not ours, or a resolution of its own.

mod answer;
mod config;
mod forward;
mod handed;
mod listen;
mod listener;
mod server;
mod stats;
mod table;
mod tcp;
#[cfg(test)]
mod tests;

pub use self::{
    answer::{Answer, AnswerRecord, Decision, QueryType, TTL_SECS, Transport, answer, query},
    config::{DnsConfig, DnsError, MAX_RESOLVERS},
    handed::{HandedBlock, HandedSocket},
    listen::DnsListen,
    server::{DnsServer, Farewell},
    stats::DnsStats,
    table::{Found, NameTable},
};
