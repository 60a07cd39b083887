//! What `lspci` prints of a machine, read into records of its functions: `lspci -Dvvxxxx`, by root. `-xxxx` prints all of config space, `-vv`
//! the sizes of BARs, which nobody can tell from config space without writing to it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use axvm_addr::PciAddress;

use crate::recorded::Record;
use crate::spec::header;

/// What `lspci -n -Dvvxxxx` prints on QEMU's q35 with an NVMe disk, an e1000e, an igb behind a root port and an edu. Of its explanations only
/// those of regions are kept, of config space the first 512 bytes.
#[cfg(any(test, feature = "fake"))]
pub const Q35: &str = include_str!("lspci/q35.txt");

/// What a text has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lspci {
    /// The functions whose config space is in it.
    pub records: Vec<Record>,
    /// What it lacks: for people.
    pub lacks: Vec<String>,
}

/// Bytes of config space that everybody may read, and of one without what PCI Express has added.
const HEADER: usize = 64;
/// Bytes of a function that has all of it.
const MOST: usize = 4096;

impl Lspci {
    /// Reads a text. `None`: there is no function's config space in it.
    pub fn read(text: &str) -> Option<Self> {
        let mut records: Vec<Record> = Vec::new();
        let mut now: Option<Record> = None;
        for line in text.lines() {
            if let Some(heading) = heading(line) {
                records.extend(now.take().filter(|record| !record.config.is_empty()));
                // One that has a number which config space can't have, as those behind Intel's VMD, is passed by with all that is said of it.
                now = heading.address().map(|address| Record { address, config: Vec::new(), bars: [0; 6] });
            } else if let Some(record) = &mut now {
                if let Some((index, size)) = region(line) {
                    record.bars.get_mut(index).into_iter().for_each(|bar| *bar = size);
                } else if let Some((offset, bytes)) = row(line)
                    && offset == record.config.len()
                    && offset + bytes.len() <= MOST
                {
                    record.config.extend(bytes);
                }
            }
        }
        records.extend(now.filter(|record| !record.config.is_empty()));
        // One that was asleep, or has gone, answers with all ones.
        records.retain(|record| !matches!(record.config.get(..2), None | Some([0xff, 0xff])));
        (!records.is_empty()).then(|| {
            let lacks = lacks(&records);
            Self { records, lacks }
        })
    }
}

/// What begins a function.
struct Heading {
    numbers: [u32; 4],
}

impl Heading {
    fn address(&self) -> Option<PciAddress> {
        let [segment, bus, device, function] = self.numbers;
        PciAddress::new(
            u16::try_from(segment).ok()?,
            u8::try_from(bus).ok()?,
            u8::try_from(device).ok()?,
            u8::try_from(function).ok()?,
        )
    }
}

/// `0000:00:1f.2 SATA controller: ...`, or without the segment, which is 0 then.
fn heading(line: &str) -> Option<Heading> {
    let (place, _) = line.split_once(' ')?;
    let (place, function) = place.rsplit_once('.')?;
    let mut parts = place.rsplit(':');
    let (device, bus, segment) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    let number = |text: &str, most: usize| {
        let is_one = !text.is_empty() && text.len() <= most && text.bytes().all(|it| it.is_ascii_hexdigit());
        u32::from_str_radix(text, 16).ok().filter(|_| is_one)
    };
    let numbers = [number(segment, 8)?, number(bus, 2)?, number(device, 2)?, number(function, 1)?];
    parts.next().is_none().then_some(Heading { numbers })
}

/// `Region 0: Memory at fe200000 (64-bit, non-prefetchable) [size=16K]`.
fn region(line: &str) -> Option<(usize, u64)> {
    // Further in, under a capability, are those of virtual functions.
    let (index, rest) = line.strip_prefix('\t')?.strip_prefix("Region ")?.split_once(':')?;
    let (_, size) = rest.split_once("[size=")?;
    let (size, _) = size.split_once(']')?;
    let digits = size.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let shift = match size.get(digits.len()..)? {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let size = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    Some((index.parse().ok()?, size))
}

/// `10: 04 00 20 fe ...`: an offset and sixteen bytes.
fn row(line: &str) -> Option<(usize, Vec<u8>)> {
    let (offset, rest) = line.split_once(": ")?;
    let offset = usize::from_str_radix(offset, 16).ok().filter(|_| (2..=3).contains(&offset.len()))?;
    let byte = |text: &str| u8::from_str_radix(text, 16).ok().filter(|_| text.len() == 2);
    let bytes = rest.split_whitespace().map(byte).collect::<Option<Vec<u8>>>()?;
    (bytes.len() == 16).then_some((offset, bytes))
}

/// What must be known of functions and isn't in the text.
fn lacks(records: &[Record]) -> Vec<String> {
    let mut lacks = Vec::new();
    let cut = records.iter().filter(|record| record.config.len() <= HEADER).count();
    if cut != 0 {
        lacks.push(format!(
            "lspci's text has no more than {HEADER} bytes of {cut} functions: capabilities and groups aren't known (`lspci -Dvvxxxx`, by root, has all)"
        ));
    }
    let unsized_bars = records.iter().filter(|record| has_unsized_bar(record)).count();
    if unsized_bars != 0 {
        lacks.push(format!(
            "lspci's text doesn't say how large BARs of {unsized_bars} functions are: they are taken not to be there (`lspci -Dvvxxxx` says it)"
        ));
    }
    lacks
}

/// Whether a BAR has an address, and no size.
fn has_unsized_bar(record: &Record) -> bool {
    let byte = |offset: u16| record.config.get(usize::from(offset)).copied().unwrap_or(0);
    let word = |at: u16| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
    let is_bridge = byte(header::HEADER_TYPE) & header::LAYOUT == header::LAYOUT_BRIDGE;
    let count = if is_bridge { header::BRIDGE_BARS } else { header::BARS };
    let mut index = 0;
    while index < count {
        let low = word(header::bar(index));
        let is_wide = low & (header::BAR_IO | header::BAR_TYPE) == header::BAR_TYPE_64;
        let is_set = low & !0xf != 0 || is_wide && word(header::bar(index + 1)) != 0;
        if is_set && record.bars.get(usize::from(index)) == Some(&0) {
            return true;
        }
        index += if is_wide { 2 } else { 1 };
    }
    false
}

#[cfg(test)]
mod tests;
