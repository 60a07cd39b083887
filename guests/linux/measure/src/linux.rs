//! The few calls of Linux that are needed: the result is negative for an error.

use core::ffi::CStr;

use crate::arch::{
    EXECVE, EXIT_GROUP, GETPID, O_DIRECT, OPENAT, PREAD64, RECVFROM, SENDTO, SETSOCKOPT, SOCKET, WRITE, call,
};
use crate::arguments::Arguments;

const AT_FDCWD: isize = -100;

/// The kernel refused a call.
#[derive(Clone, Copy, Debug)]
pub struct Failed;

fn result(value: isize) -> Result<usize, Failed> {
    usize::try_from(value).map_err(|_| Failed)
}

/// This process's number.
pub fn process() -> isize {
    // SAFETY: it takes no arguments.
    unsafe { call(GETPID, [0; 6]) }
}

/// Ends the program.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: it takes a number and doesn't come back.
        unsafe { call(EXIT_GROUP, [status as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Writes a text to the standard output.
pub fn say(text: &CStr) {
    let bytes = text.to_bytes();
    // SAFETY: the kernel reads as many bytes as there are.
    unsafe { call(WRITE, [1, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) };
}

/// Becomes another program, with the arguments from one on, and the environment; comes back only where that fails.
pub fn execute(program: &CStr, arguments: &Arguments, from: usize) {
    let list = arguments.list_from(from);
    let words = [program.as_ptr() as usize, list as usize, arguments.environment() as usize];
    // SAFETY: the name is terminated, and both lists end with a null pointer.
    unsafe { call(EXECVE, [words[0], words[1], words[2], 0, 0, 0]) };
}

/// An open file.
pub struct File(usize);

impl File {
    /// Opens one for reading past the page cache.
    pub fn open_direct(path: &CStr) -> Result<File, Failed> {
        // SAFETY: the name is terminated.
        let opened = unsafe { call(OPENAT, [AT_FDCWD as usize, path.as_ptr() as usize, O_DIRECT, 0, 0, 0]) };
        result(opened).map(File)
    }

    /// Reads bytes at an offset; how many.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, Failed> {
        let words = [self.0, bytes.as_mut_ptr() as usize, bytes.len(), offset as usize, 0, 0];
        // SAFETY: the kernel writes at most as many bytes as there are.
        result(unsafe { call(PREAD64, words) })
    }
}

/// A socket for raw internet packets.
pub struct Socket(usize);

const AF_INET: u16 = 2;
const SOCK_RAW: usize = 3;
const SOL_SOCKET: usize = 1;
/// With seconds and microseconds of 64 bits each.
const SO_RCVTIMEO: usize = 20;

impl Socket {
    /// A socket of a protocol, on which receiving gives up after a second.
    pub fn raw(protocol: u8) -> Result<Socket, Failed> {
        // SAFETY: it takes numbers.
        let opened = unsafe { call(SOCKET, [AF_INET.into(), SOCK_RAW, protocol.into(), 0, 0, 0]) };
        let socket = Socket(result(opened)?);
        let bound = [1u64, 0];
        let words = [socket.0, SOL_SOCKET, SO_RCVTIMEO, bound.as_ptr() as usize, size_of_val(&bound), 0];
        // SAFETY: the kernel reads as many bytes as the bound has.
        result(unsafe { call(SETSOCKOPT, words) })?;
        Ok(socket)
    }

    /// Sends a packet to an address.
    pub fn send(&self, address: [u8; 4], packet: &[u8]) -> Result<(), Failed> {
        let [a, b, c, d] = address;
        let [low, high] = AF_INET.to_ne_bytes();
        let name = [low, high, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.0, packet.as_ptr() as usize, packet.len(), 0, name.as_ptr() as usize, name.len()];
        // SAFETY: the kernel reads as many bytes as packet and name have.
        result(unsafe { call(SENDTO, words) }).map(drop)
    }

    /// Receives a packet, with its internet header; how long it is. An error where none came in time.
    pub fn receive(&self, packet: &mut [u8]) -> Result<usize, Failed> {
        let words = [self.0, packet.as_mut_ptr() as usize, packet.len(), 0, 0, 0];
        // SAFETY: the kernel writes at most as many bytes as there are.
        result(unsafe { call(RECVFROM, words) })
    }
}
