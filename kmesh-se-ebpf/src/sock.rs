//! The socket address that a program was called with.
//!
//! In: `bpf_sock_addr`. Out: address words and ports, and the verdict. Never: a decision.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{bpf_set_retval, generated::bpf_skc_to_mptcp_sock},
    programs::SockAddrContext,
};
use kmesh_se_common::addr::{V4_MAPPED_WORD, is_v4_mapped};

use crate::maps::{KMSE_MPTCP, KMSE_SET_RETVAL};

/// The kernel goes on with the call.
pub(crate) const PROCEED: i32 = 1;
/// The kernel refuses the call with the errno set before, or with `EPERM`.
const REFUSE: i32 = 0;

pub(crate) const IPPROTO_TCP: u8 = 6;
pub(crate) const IPPROTO_UDP: u8 = 17;

pub(crate) const ECONNREFUSED: i32 = 111;
pub(crate) const EHOSTUNREACH: i32 = 113;

/// An address and port as the kernel shows them: words as in memory (IPv4 v4-mapped), port in host order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) addr: [u32; 4],
    pub(crate) port: u16,
}

/// Where a hook keeps its address.
pub(crate) trait Family {
    /// The address and port in the context: the destination, or for `recvmsg` and `getpeername` the peer.
    fn read(ctx: &SockAddrContext) -> Endpoint;
    /// As [`Family::read`] for a destination; the unspecified address means this host, as it does to the kernel.
    #[inline(always)]
    fn dialled(ctx: &SockAddrContext) -> Endpoint {
        let mut to = Self::read(ctx);
        if to.addr[3] == 0 {
            if is_v4_mapped(&to.addr) {
                to.addr[3] = u32::from_ne_bytes([127, 0, 0, 1]);
            } else if to.addr == [0; 4] {
                to.addr[3] = u32::from_ne_bytes([0, 0, 0, 1]);
            }
        }
        to
    }
    /// Whether a socket of this family can be sent to `addr` by `connect`.
    fn reaches(addr: &[u32; 4]) -> bool;
    /// Puts an address that [`Family::reaches`] allows into the context.
    fn write(ctx: &SockAddrContext, to: Endpoint);
    /// Whether a datagram to `addr` may leave from this hook: `sendmsg6` cannot change family.
    fn sends_to(addr: &[u32; 4]) -> bool;
}

pub(crate) struct V4;
pub(crate) struct V6;

impl Family for V4 {
    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> Endpoint {
        // SAFETY: the context is valid for the whole program.
        let word = unsafe { (*ctx.sock_addr).user_ip4 };
        Endpoint { addr: [0, 0, V4_MAPPED_WORD, word], port: port(ctx) }
    }

    #[inline(always)]
    fn reaches(addr: &[u32; 4]) -> bool {
        is_v4_mapped(addr)
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, to: Endpoint) {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*ctx.sock_addr).user_ip4 = to.addr[3] };
        set_port(ctx, to.port);
    }

    #[inline(always)]
    fn sends_to(addr: &[u32; 4]) -> bool {
        is_v4_mapped(addr)
    }
}

impl Family for V6 {
    #[inline(always)]
    fn read(ctx: &SockAddrContext) -> Endpoint {
        let at = ctx.sock_addr;
        // SAFETY: the context is valid for the whole program. Volatile, word by word: older verifiers refuse the wider
        // loads that LLVM would make of an array copy.
        let addr = unsafe {
            [
                (&raw const (*at).user_ip6[0]).read_volatile(),
                (&raw const (*at).user_ip6[1]).read_volatile(),
                (&raw const (*at).user_ip6[2]).read_volatile(),
                (&raw const (*at).user_ip6[3]).read_volatile(),
            ]
        };
        Endpoint { addr, port: port(ctx) }
    }

    #[inline(always)]
    fn reaches(_addr: &[u32; 4]) -> bool {
        true
    }

    #[inline(always)]
    fn write(ctx: &SockAddrContext, to: Endpoint) {
        let at: *mut bpf_sock_addr = ctx.sock_addr;
        // SAFETY: as in `read`.
        unsafe {
            (&raw mut (*at).user_ip6[0]).write_volatile(to.addr[0]);
            (&raw mut (*at).user_ip6[1]).write_volatile(to.addr[1]);
            (&raw mut (*at).user_ip6[2]).write_volatile(to.addr[2]);
            (&raw mut (*at).user_ip6[3]).write_volatile(to.addr[3]);
        }
        set_port(ctx, to.port);
    }

    #[inline(always)]
    fn sends_to(addr: &[u32; 4]) -> bool {
        !is_v4_mapped(addr)
    }
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context is valid for the whole program. `user_port` is in network order in the low 16 bits.
    u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16)
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: u16) {
    // SAFETY: the context is valid for the whole program.
    unsafe { (*ctx.sock_addr).user_port = u32::from(port.to_be()) };
}

/// The transport of the socket if it is one that is handled: plain TCP or UDP. MPTCP, SCTP, raw and ICMP are not.
#[inline(always)]
pub(crate) fn transport(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: the context is valid for the whole program.
    match unsafe { (*ctx.sock_addr).protocol } {
        6 => Some(IPPROTO_TCP),
        17 => Some(IPPROTO_UDP),
        _ => None,
    }
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the context is valid for the whole program; the union has one field.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }
}

/// Whether the socket is of IPv6, whatever its addresses are.
#[inline(always)]
pub(crate) fn is_v6_socket(ctx: &SockAddrContext) -> bool {
    const AF_INET6: u32 = 10;
    // SAFETY: as in `is_connected_to`.
    unsafe { (&raw const (*socket(ctx)).family).read_volatile() == AF_INET6 }
}

/// Whether a stream socket has a peer's address from an earlier connect, which the kernel leaves there whatever becomes of
/// the connection.
#[inline(always)]
pub(crate) fn has_connected(ctx: &SockAddrContext) -> bool {
    let sk = socket(ctx);
    // SAFETY: as in `is_connected_to`. An IPv6 socket has one of the two by its peer's family.
    unsafe {
        (&raw const (*sk).dst_ip4).read_volatile()
            | (&raw const (*sk).dst_ip6[0]).read_volatile()
            | (&raw const (*sk).dst_ip6[1]).read_volatile()
            | (&raw const (*sk).dst_ip6[2]).read_volatile()
            | (&raw const (*sk).dst_ip6[3]).read_volatile()
            != 0
    }
}

/// Whether a datagram socket is connected to `at`.
#[inline(always)]
pub(crate) fn is_connected_to(ctx: &SockAddrContext, at: Endpoint) -> bool {
    const TCP_ESTABLISHED: u32 = 1;
    let sk = socket(ctx);
    // SAFETY: the context's socket is never null and lives as long as the program runs. Volatile, because the verifier
    // takes only loads of single fields. A datagram socket that is connected has this state too.
    unsafe {
        if (&raw const (*sk).state).read_volatile() != TCP_ESTABLISHED
            || u16::from_be((&raw const (*sk).dst_port).read_volatile()) != at.port
        {
            return false;
        }
        // An IPv6 socket that talks IPv4 keeps its peer where an IPv4 socket does.
        if is_v4_mapped(&at.addr) {
            return (&raw const (*sk).dst_ip4).read_volatile() == at.addr[3];
        }
        (&raw const (*sk).dst_ip6[0]).read_volatile() == at.addr[0]
            && (&raw const (*sk).dst_ip6[1]).read_volatile() == at.addr[1]
            && (&raw const (*sk).dst_ip6[2]).read_volatile() == at.addr[2]
            && (&raw const (*sk).dst_ip6[3]).read_volatile() == at.addr[3]
    }
}

/// Whether the socket carries MPTCP: its protocol says TCP.
#[inline(always)]
pub(crate) fn is_mptcp(ctx: &SockAddrContext) -> bool {
    // SAFETY: a static of the object; volatile, because the loader changes it before the program is loaded.
    if unsafe { (&raw const KMSE_MPTCP).read_volatile() } != 1 {
        return false;
    }
    // SAFETY: the helper takes the context's socket.
    !unsafe { bpf_skc_to_mptcp_sock(socket(ctx).cast()) }.is_null()
}

/// Refuses the call with `errno`.
#[inline(always)]
pub(crate) fn refuse(errno: i32) -> i32 {
    // SAFETY: a static of the object; volatile, because the loader changes it before the program is loaded.
    if unsafe { (&raw const KMSE_SET_RETVAL).read_volatile() } == 1 {
        // SAFETY: the helper takes any value of an errno.
        unsafe { bpf_set_retval(-errno) };
    }
    REFUSE
}
