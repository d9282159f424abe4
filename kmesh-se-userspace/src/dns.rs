//! The agent's DNS server: answers our names, hands every other query to the resolver that was asked.
//!
//! In: the [`NameTable`] and queries of managed clients. Out: replies, and [`DnsStats`]. Never: a cache, a
//! change to a query or reply that is not ours, or a resolution of its own.

mod answer;
mod clients;
mod config;
mod forward;
mod handed;
mod listen;
mod listener;
mod search;
mod server;
mod stats;
mod table;
mod tcp;
#[cfg(test)]
mod tests;

pub use self::{
    answer::{
        Answer, AnswerData, AnswerRecord, Decision, QueryType, TTL_SECS, Transport, Waited, answer, query,
        server_failure,
    },
    clients::{Access, Client, ClientTable, Clients},
    config::{DnsConfig, DnsError, MAX_RESOLVERS},
    forward::is_reply_to,
    handed::{HandedBlock, HandedSocket},
    listen::DnsListen,
    search::Search,
    server::{Ask, DnsServer, Farewell},
    stats::DnsStats,
    table::{Found, NameTable, Used},
};
