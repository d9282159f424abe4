//! A client process: makes the system calls that a test asks for.
//!
//! In: [`Call`]s, one JSON line each, on standard input. Out: an [`Answer`] line for each. Never: a choice of its own.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};
use socket2::{SockAddr, SockAddrStorage, Socket};
use tests::load::now_ns;
use tests::sockets::call::{Answer, By, Call, Hammered, Reached};

/// How long a call may wait before it fails with `EAGAIN`.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest text.
const TEXT: usize = 2048;
/// How long a connection of [`Call::Hammer`] may take until it counts as failed.
const STUCK: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    let mut sockets = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let call = serde_json::from_str(&line?)?;
        let answer = make(&mut sockets, call)
            .unwrap_or_else(|error| Answer::Failed(error.raw_os_error().unwrap_or(libc::EBADMSG)));
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

fn make(sockets: &mut BTreeMap<i32, Socket>, call: Call) -> io::Result<Answer> {
    let get = |number: i32| sockets.get(&number).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF));
    match call {
        Call::Open { family, kind, protocol } => {
            let socket = Socket::new(family.into(), kind.into(), Some(protocol.into()))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            let number = socket.as_raw_fd();
            sockets.insert(number, socket);
            return Ok(Answer::Socket(number));
        }
        Call::OnlyV6 { socket } => get(socket)?.set_only_v6(true)?,
        Call::Bind { socket, to } => get(socket)?.bind(&to.into())?,
        Call::Connect { socket, to, by: By::Call } => get(socket)?.connect(&to.into())?,
        Call::Connect { socket, to, by } => {
            let to = SockAddr::from(to);
            let entry =
                opcode::Connect::new(types::Fd(get(socket)?.as_raw_fd()), to.as_ptr().cast(), to.len());
            // SAFETY: the address lives until the call returns.
            unsafe { submit(entry.build(), by) }?;
        }
        Call::Disconnect { socket } => disconnect(get(socket)?)?,
        Call::Send { socket, to, text, by, fast_open } => {
            send(get(socket)?, to, &text, by, if fast_open { libc::MSG_FASTOPEN } else { 0 })?;
        }
        Call::SendMany { socket, to, text } => send_many(get(socket)?, &to, &text)?,
        Call::Receive { socket, by } => return receive(get(socket)?, by),
        Call::ReceiveMany { socket, count } => return receive_many(get(socket)?, count),
        Call::PeerName { socket } => return address(&get(socket)?.peer_addr()?),
        Call::SockName { socket } => return address(&get(socket)?.local_addr()?),
        Call::Storm { socket, to, rounds } => return storm(get(socket)?, &to, rounds),
        Call::Swarm { to, threads, rounds } => return swarm(&to, threads, rounds),
        Call::Loop { to, count } => {
            for _ in 0..count {
                std::net::TcpStream::connect(to)?;
            }
        }
        Call::Which { to } => {
            return Ok(Answer::Backends(to.into_iter().map(which).collect::<Result<_, _>>()?));
        }
        Call::Hammer { to, threads, stop } => return hammer(&to, threads, &stop),
        Call::Close { socket } => drop(sockets.remove(&socket)),
    }
    Ok(Answer::Done)
}

fn address(address: &SockAddr) -> io::Result<Answer> {
    let unknown = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
    address.as_socket().map(Answer::Address).ok_or_else(unknown)
}

/// A message with one buffer and room for an address; points into what it was made of.
fn message(address: Option<(*mut libc::c_void, u32)>, buffer: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: all zero is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    let (name, length) = address.unwrap_or((std::ptr::null_mut(), 0));
    (message.msg_name, message.msg_namelen) = (name, length);
    (message.msg_iov, message.msg_iovlen) = (buffer, 1);
    message
}

fn send(socket: &Socket, to: Option<SocketAddr>, text: &str, by: By, flags: i32) -> io::Result<()> {
    let to = to.map(SockAddr::from);
    let mut buffer = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    let name = to.as_ref().map(|to| (to.as_ptr().cast_mut().cast(), to.len()));
    let message = message(name, &mut buffer);
    let sent = if by == By::Call {
        // SAFETY: address and buffer live until the call returns.
        check(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) })?
    } else {
        let entry =
            opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &message).flags(flags.cast_unsigned());
        // SAFETY: as above.
        unsafe { submit(entry.build(), by) }?
    };
    if sent == text.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) }
}

fn receive(socket: &Socket, by: By) -> io::Result<Answer> {
    let mut text = [0u8; TEXT];
    let mut from = SockAddrStorage::zeroed();
    let mut buffer = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: TEXT };
    let name = ((&raw mut from).cast(), from.size_of());
    let mut message = message(Some(name), &mut buffer);
    let length = if by == By::Call {
        // SAFETY: address and buffer live until the call returns.
        check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) })?
    } else {
        let entry = opcode::RecvMsg::new(types::Fd(socket.as_raw_fd()), &mut message);
        // SAFETY: as above.
        unsafe { submit(entry.build(), by) }?
    };
    // SAFETY: the kernel wrote an address of this length, or none and left zero.
    let from = unsafe { SockAddr::new(from, message.msg_namelen) }.as_socket();
    Ok(Answer::Received { text: readable(&text[..length]), from })
}

fn readable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Has a ring do one thing; again, if a busy machine had its worker interrupted, as for any system call.
///
/// In a thread of its own: a ring that goes interrupts whatever its thread waits for, and a call with a time limit is not
/// begun again by the kernel.
///
/// # Safety
/// What the entry points to lives until this returns.
unsafe fn submit(entry: squeue::Entry, by: By) -> io::Result<usize> {
    std::thread::scope(|scope| {
        let ring = scope.spawn(|| {
            loop {
                // SAFETY: the caller's promise.
                match unsafe { submit_once(entry.clone(), by) } {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    done => return done,
                }
            }
        });
        ring.join().unwrap_or_else(|_| Err(io::Error::other("the ring's thread panicked")))
    })
}

/// # Safety
/// As [`submit`].
unsafe fn submit_once(entry: squeue::Entry, by: By) -> io::Result<usize> {
    let entry = if by == By::RingWorker { entry.flags(squeue::Flags::ASYNC) } else { entry };
    let mut ring = IoUring::new(2)?;
    // SAFETY: the caller's promise; this returns after the completion.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    // A worker that ends interrupts the wait.
    while let Err(error) = ring.submit_and_wait(1) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let done = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
    usize::try_from(done.result()).map_err(|_| io::Error::from_raw_os_error(-done.result()))
}

fn send_many(socket: &Socket, to: &[SocketAddr], text: &str) -> io::Result<()> {
    let addresses: Vec<SockAddr> = to.iter().copied().map(SockAddr::from).collect();
    let mut buffer = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    let mut messages: Vec<libc::mmsghdr> = addresses
        .iter()
        .map(|to| libc::mmsghdr {
            msg_hdr: message(Some((to.as_ptr().cast_mut().cast(), to.len())), &mut buffer),
            msg_len: 0,
        })
        .collect();
    let mut done = 0;
    while done < messages.len() {
        let rest = &mut messages[done..];
        // SAFETY: addresses and the buffer live until the call returns; the length is that of the slice.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        done += check(sent as isize)?;
    }
    Ok(())
}

fn receive_many(socket: &Socket, count: usize) -> io::Result<Answer> {
    let mut texts = vec![[0u8; TEXT]; count];
    let mut froms: Vec<SockAddrStorage> = (0..count).map(|_| SockAddrStorage::zeroed()).collect();
    let mut buffers: Vec<libc::iovec> = texts
        .iter_mut()
        .map(|text| libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: TEXT })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = froms
        .iter_mut()
        .zip(&mut buffers)
        .map(|(from, buffer)| {
            let length = from.size_of();
            libc::mmsghdr { msg_hdr: message(Some(((&raw mut *from).cast(), length)), buffer), msg_len: 0 }
        })
        .collect();
    let mut done = 0;
    while done < count {
        let rest = &mut messages[done..];
        // SAFETY: addresses and buffers live until the call returns; the length is that of the slice.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                rest.as_mut_ptr(),
                rest.len() as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        done += check(got as isize)?;
    }
    let lengths: Vec<_> = messages.iter().map(|m| (m.msg_len as usize, m.msg_hdr.msg_namelen)).collect();
    let received = texts.iter().zip(froms).zip(lengths).map(|((text, from), (length, name))| {
        // SAFETY: the kernel wrote an address of this length.
        (readable(&text[..length]), unsafe { SockAddr::new(from, name) }.as_socket())
    });
    Ok(Answer::ReceivedMany(received.collect()))
}

fn storm(socket: &Socket, to: &[SocketAddr], rounds: usize) -> io::Result<Answer> {
    let start = Barrier::new(to.len());
    std::thread::scope(|scope| {
        for (number, address) in to.iter().enumerate() {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                for _ in 0..rounds {
                    // What is lost shows below.
                    let _ = socket.send_to(number.to_string().as_bytes(), &(*address).into());
                }
            });
        }
        let mut wrong = Vec::new();
        for _ in 0..rounds * to.len() {
            let mut buffer = [MaybeUninit::uninit(); TEXT];
            let (length, from) = socket.recv_from(&mut buffer)?;
            // SAFETY: the kernel wrote so many bytes.
            let text = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
            let text = readable(text);
            let number: Option<usize> = text.rsplit(' ').next().and_then(|last| last.parse().ok());
            let wanted = number.and_then(|number| to.get(number).copied());
            if from.as_socket() != wanted {
                wrong.push(format!("{text} from {:?} instead of {wanted:?}", from.as_socket()));
            }
        }
        Ok(Answer::Wrong(wrong))
    })
}

fn disconnect(socket: &Socket) -> io::Result<()> {
    // SAFETY: all zero is an address of the family AF_UNSPEC.
    socket.connect(&unsafe { SockAddr::new(SockAddrStorage::zeroed(), 16) })
}

fn swarm(to: &[SocketAddr], threads: usize, rounds: usize) -> io::Result<Answer> {
    let one = |thread: usize| {
        let mut wrong = Vec::new();
        // Two are open at a time, so that one of them is closed while the other lives.
        let mut before = None;
        for round in 0..rounds {
            let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_linger(Some(Duration::ZERO))?;
            for step in 0..3 {
                let to = to[(thread + round + step) % to.len()];
                socket.connect(&to.into())?;
                let shown = socket.peer_addr()?.as_socket();
                if shown != Some(to) {
                    wrong.push(format!("{shown:?} instead of {to}"));
                }
                disconnect(&socket)?;
            }
            before = Some(socket);
        }
        drop(before);
        io::Result::Ok(wrong)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(move || one(number))).collect();
        let mut wrong = Vec::new();
        for thread in threads {
            wrong.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
        }
        Ok(Answer::Wrong(wrong))
    })
}

fn hammer(to: &[SocketAddr], threads: usize, stop: &Path) -> io::Result<Answer> {
    let mut all = Hammered::default();
    let mut reached: BTreeMap<(usize, SocketAddr), u64> = BTreeMap::new();
    std::thread::scope(|scope| -> io::Result<()> {
        let work = |number: usize| move || hammer_one(to, to.len() * number / threads, stop);
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(work(number))).collect();
        for thread in threads {
            let one = thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
            all.connects += one.connects;
            all.slowest_us = all.slowest_us.max(one.slowest_us);
            all.failures.extend(one.failures);
            for Reached { to, backend, last_ns } in one.reached {
                let last = reached.entry((to, backend)).or_default();
                *last = last_ns.max(*last);
            }
        }
        Ok(())
    })?;
    let rows = reached.into_iter().map(|((to, backend), last_ns)| Reached { to, backend, last_ns });
    all.reached = rows.collect();
    Ok(Answer::Hammered(all))
}

/// One thread, which begins with the address of this number.
fn hammer_one(to: &[SocketAddr], first: usize, stop: &Path) -> io::Result<Hammered> {
    let mut told = Hammered::default();
    let mut reached = BTreeMap::new();
    for number in (0..to.len()).cycle().skip(first) {
        if stop.exists() {
            break;
        }
        let began_ns = now_ns().map_err(io::Error::other)?;
        let began = Instant::now();
        match which(to[number]) {
            Ok(backend) => {
                told.connects += 1;
                let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                told.slowest_us = told.slowest_us.max(micros);
                reached.insert((number, backend), began_ns);
            }
            Err(error) => {
                told.failures.push(format!("{} after {:?}: {error}", to[number], began.elapsed()));
            }
        }
    }
    let rows = reached.into_iter().map(|((to, backend), last_ns)| Reached { to, backend, last_ns });
    told.reached = rows.collect();
    Ok(told)
}

/// The server that answers at an address.
fn which(to: SocketAddr) -> io::Result<SocketAddr> {
    let family = if to.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let mut socket = Socket::new(family, socket2::Type::STREAM, None)?;
    socket.set_read_timeout(Some(STUCK))?;
    socket.set_write_timeout(Some(STUCK))?;
    // Closing leaves nothing behind, or local ports would run out.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect(&to.into())?;
    socket.write_all(b"?")?;
    let mut buffer = [0; 128];
    let length = socket.read(&mut buffer)?;
    let text = readable(&buffer[..length]);
    let own = text.split(' ').next().and_then(|own| own.parse().ok());
    own.ok_or_else(|| io::Error::other(format!("the server said {text:?}")))
}
