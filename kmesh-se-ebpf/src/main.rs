//! The cgroup programs: a connection of an enrolled process to a virtual address becomes one to a backend.
//!
//! In: `bpf_sock_addr` contexts. Out: rewritten addresses, or a refusal by errno. Never: a wait, or a log line on the
//! hot path.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the attribute macros make public functions without documentation"
)]

mod connect;
mod count;
mod datagram;
mod dns;
mod enrol;
mod lookup;
mod maps;
mod peer;
mod pick;
mod sock;
mod udp;

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};

use crate::sock::{V4, V6};

/// connect(2) of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn kmse_connect4(ctx: SockAddrContext) -> i32 {
    connect::connect::<V4>(&ctx)
}

/// connect(2) of an IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub fn kmse_connect6(ctx: SockAddrContext) -> i32 {
    connect::connect::<V6>(&ctx)
}

/// sendmsg(2) with an address, of an IPv4 socket or to a v4-mapped address.
#[cgroup_sock_addr(sendmsg4)]
pub fn kmse_sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram::sendmsg::<V4>(&ctx)
}

/// sendmsg(2) with an address, of an IPv6 socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn kmse_sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram::sendmsg::<V6>(&ctx)
}

/// recvmsg(2) that asks for the sender, of an IPv4 socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn kmse_recvmsg4(ctx: SockAddrContext) -> i32 {
    datagram::recvmsg::<V4>(&ctx)
}

/// recvmsg(2) that asks for the sender, of an IPv6 socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn kmse_recvmsg6(ctx: SockAddrContext) -> i32 {
    datagram::recvmsg::<V6>(&ctx)
}

/// getpeername(2) of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn kmse_peer4(ctx: SockAddrContext) -> i32 {
    peer::getpeername::<V4>(&ctx)
}

/// getpeername(2) of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn kmse_peer6(ctx: SockAddrContext) -> i32 {
    peer::getpeername::<V6>(&ctx)
}

/// close(2) of an inet socket.
#[cgroup_sock(sock_release)]
pub fn kmse_release(ctx: SockContext) -> i32 {
    peer::released(&ctx);
    udp::released(&ctx);
    sock::PROCEED
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
