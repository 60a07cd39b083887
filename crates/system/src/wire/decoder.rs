//! The tool's side of the line.

use alloc::vec::Vec;

use super::{Channel, HEADER, NONCE_BYTES, Nonce, encode_header};

/// The most bytes that pieces are joined to: beyond is no report but a hypervisor gone wrong.
const MAX_JOINED: usize = 16 << 20;

/// What the line carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes outside every frame.
    Noise(Vec<u8>),
    /// A frame.
    Frame(Channel, Vec<u8>),
}

/// Takes frames out of a stream of bytes that comes in pieces of any size.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// How every frame of this run begins.
    start: [u8; 3 + 2 * NONCE_BYTES],
    buffer: Vec<u8>,
    /// How much of `buffer` has been given out.
    read: usize,
}

impl Decoder {
    /// A decoder of frames with this nonce.
    pub fn new(nonce: &Nonce) -> Self {
        let header = encode_header(nonce, Channel::Log, 0);
        Self { start: header.first_chunk().copied().unwrap_or_default(), buffer: Vec::new(), read: 0 }
    }

    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece, if it has arrived as a whole. Bytes that may be the beginning of a frame wait for the next ones.
    pub fn next_piece(&mut self) -> Option<Piece> {
        let rest = self.buffer.get(self.read..)?;
        // Up to where a frame begins, or may begin at the end of what has arrived, everything is noise.
        let noise = (0..rest.len()).find(|at| self.may_begin(&rest[*at..])).unwrap_or(rest.len());
        if noise > 0 {
            let bytes = rest[..noise].to_vec();
            self.read += noise;
            return Some(Piece::Noise(bytes));
        }
        let (channel, length) = read_header(rest.first_chunk()?)?;
        let payload = rest.get(HEADER..HEADER + length)?.to_vec();
        self.read += HEADER + length;
        Some(Piece::Frame(channel, payload))
    }

    /// What is left when the stream has ended: the beginning of a frame that never came.
    pub fn finish(&mut self) -> Vec<u8> {
        self.buffer.drain(..self.read);
        self.read = 0;
        core::mem::take(&mut self.buffer)
    }

    /// Whether `bytes` are a frame's beginning as far as they go.
    fn may_begin(&self, bytes: &[u8]) -> bool {
        let common = bytes.len().min(self.start.len());
        bytes[..common] == self.start[..common]
            && bytes.first_chunk().is_none_or(|header| read_header(header).is_some())
    }
}

/// Channel and payload length of a header whose start has been compared.
fn read_header(header: &[u8; HEADER]) -> Option<(Channel, usize)> {
    let digits = |range: core::ops::Range<usize>| {
        let text = core::str::from_utf8(header.get(range)?).ok()?;
        text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| usize::from_str_radix(text, 16).ok())?
    };
    let vm = u8::try_from(digits(20..22)?).ok()?;
    Some((Channel::from_code(header[19], vm)?, digits(22..26)?))
}

/// Joins the pieces of something longer than a frame and keeps the last complete one.
#[derive(Clone, Debug)]
pub struct Pieces {
    part: Channel,
    end: Channel,
    arriving: Vec<u8>,
    complete: Option<Vec<u8>>,
}

impl Pieces {
    /// For the report.
    pub fn of_report() -> Self {
        Self::new(Channel::Report, Channel::ReportEnd)
    }

    /// For the platform.
    pub fn of_platform() -> Self {
        Self::new(Channel::Platform, Channel::PlatformEnd)
    }

    /// For answers.
    pub fn of_answers() -> Self {
        Self::new(Channel::Answer, Channel::AnswerEnd)
    }

    fn new(part: Channel, end: Channel) -> Self {
        Self { part, end, arriving: Vec::new(), complete: None }
    }

    /// Takes a frame; frames of other channels are ignored.
    pub fn push(&mut self, channel: Channel, payload: &[u8]) {
        if channel == self.part && self.arriving.len().saturating_add(payload.len()) <= MAX_JOINED {
            self.arriving.extend_from_slice(payload);
        } else if channel == self.end {
            self.complete = Some(core::mem::take(&mut self.arriving));
        }
    }

    /// The last complete one's bytes.
    pub fn complete(&self) -> Option<&[u8]> {
        self.complete.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use axvm_addr::VmId;
    use proptest::prelude::*;

    use super::super::for_each_frame;
    use super::*;

    const NONCE: Nonce = *b"\x10\x32\x54\x76\x98\xba\xdc\xfe";

    fn frame(stream: &mut Vec<u8>, channel: Channel, payload: &[u8]) {
        for_each_frame(&NONCE, channel, payload, |header, payload| {
            stream.extend_from_slice(header);
            stream.extend_from_slice(payload);
        });
    }

    /// All pieces of a stream that arrives cut at multiples of `step`; neighbouring noise joined.
    fn decode(stream: &[u8], step: usize) -> Vec<Piece> {
        let mut decoder = Decoder::new(&NONCE);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut add = |piece: Piece| match (pieces.last_mut(), piece) {
            (Some(Piece::Noise(before)), Piece::Noise(more)) => before.extend(more),
            (_, piece) => pieces.push(piece),
        };
        for part in stream.chunks(step) {
            decoder.push(part);
            while let Some(piece) = decoder.next_piece() {
                add(piece);
            }
        }
        let rest = decoder.finish();
        if !rest.is_empty() {
            add(Piece::Noise(rest));
        }
        pieces
    }

    #[test]
    fn a_guest_that_writes_a_frame_to_its_console_is_not_believed() {
        let mut forged = Vec::new();
        frame(&mut forged, Channel::Report, b"all is well");
        let mut stream = Vec::new();
        frame(&mut stream, Channel::Console(VmId(1)), &forged);
        assert_eq!(decode(&stream, 7), [Piece::Frame(Channel::Console(VmId(1)), forged)]);
    }

    #[test]
    fn a_frame_with_another_nonce_is_noise() {
        let header = encode_header(&[0; 8], Channel::Report, 0);
        assert_eq!(decode(&header, 5), [Piece::Noise(header.to_vec())]);
    }

    #[test]
    fn noise_that_looks_like_a_beginning_does_not_hide_the_frame_after_it() {
        let mut stream = b"U-Boot \x01\x01AX1032\x01A".to_vec();
        let noise = stream.clone();
        frame(&mut stream, Channel::Log, b"hello\n");
        for step in 1..stream.len() {
            assert_eq!(
                decode(&stream, step),
                [Piece::Noise(noise.clone()), Piece::Frame(Channel::Log, b"hello\n".to_vec())]
            );
        }
    }

    #[test]
    fn noise_is_shown_at_once_and_not_held_back_for_the_next_frame() {
        let mut decoder = Decoder::new(&NONCE);
        decoder.push(b"=> ");
        assert_eq!(decoder.next_piece(), Some(Piece::Noise(b"=> ".to_vec())));
    }

    #[test]
    fn the_last_complete_report_counts_and_a_half_one_does_not() {
        let mut pieces = Pieces::of_report();
        pieces.push(Channel::Report, b"fir");
        assert_eq!(pieces.complete(), None);
        pieces.push(Channel::Report, b"st");
        pieces.push(Channel::ReportEnd, b"");
        pieces.push(Channel::Report, b"half");
        assert_eq!(pieces.complete(), Some(&b"first"[..]));
    }

    fn channel() -> impl Strategy<Value = Channel> {
        prop_oneof![
            Just(Channel::Log),
            (0u16..256).prop_map(|vm| Channel::Console(VmId(vm))),
            (0u16..256).prop_map(|vm| Channel::Focus(VmId(vm))),
            Just(Channel::Report),
            Just(Channel::ReportEnd),
            Just(Channel::Event),
            Just(Channel::ShellFocus),
            Just(Channel::Shell),
            Just(Channel::Answer),
            Just(Channel::AnswerEnd),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_whole_however_the_stream_is_cut(
            frames in prop::collection::vec((channel(), prop::collection::vec(any::<u8>(), 0..80)), 0..8),
            step in 1usize..60,
        ) {
            let mut stream = Vec::new();
            for (channel, payload) in &frames {
                frame(&mut stream, *channel, payload);
            }
            let expected: Vec<_> = frames.into_iter().map(|(channel, payload)| Piece::Frame(channel, payload)).collect();
            prop_assert_eq!(decode(&stream, step), expected);
        }

        #[test]
        fn no_byte_of_noise_is_lost(noise in prop::collection::vec(any::<u8>(), 1..200), step in 1usize..60) {
            prop_assert_eq!(decode(&noise, step), [Piece::Noise(noise)]);
        }
    }
}
