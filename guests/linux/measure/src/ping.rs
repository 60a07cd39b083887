//! Echo requests (RFC 792): each is sent when the one before is answered.

use crate::linux::{Failed, Socket};

const ICMP: u8 = 1;
const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;
/// What tells our answers from those of others.
const IDENTIFIER: [u8; 2] = *b"AX";
/// So many packets are looked at, or seconds waited, for one answer.
const PATIENCE: usize = 20;

/// Who is asked.
pub struct Peer {
    socket: Socket,
    address: [u8; 4],
    sequence: u16,
}

impl Peer {
    /// One with that address.
    pub fn new(address: [u8; 4]) -> Result<Peer, Failed> {
        Ok(Peer { socket: Socket::raw(ICMP)?, address, sequence: 0 })
    }

    /// Asks, and waits for the answer.
    pub fn ping(&mut self) -> Result<(), Failed> {
        self.sequence = self.sequence.wrapping_add(1);
        let [high, low] = self.sequence.to_be_bytes();
        let [first, second] = IDENTIFIER;
        let mut request = [0; 64];
        request[..8].copy_from_slice(&[ECHO, 0, 0, 0, first, second, high, low]);
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        self.socket.send(self.address, &request)?;
        let mut packet = [0; 256];
        for _ in 0..PATIENCE {
            let Ok(length) = self.socket.receive(&mut packet) else { continue };
            // The internet header's length is in its first byte, in units of four bytes.
            let header = usize::from(packet[0] & 0xf) * 4;
            let answer = packet.get(header..length).and_then(|rest| rest.first_chunk::<8>());
            if answer
                .is_some_and(|answer| answer[0] == ECHO_REPLY && answer[4..8] == [first, second, high, low])
            {
                return Ok(());
            }
        }
        Err(Failed)
    }
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
