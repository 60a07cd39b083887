//! What a host says while it has nowhere to say it: kept, as far as there is room, and told later. Nothing is lost in silence.

use alloc::collections::VecDeque;
use alloc::string::String;

use crate::report::MeanwhileReport;

/// Text that is kept: the last of it, and how much came before that.
#[derive(Debug, Default)]
pub struct Meanwhile {
    text: VecDeque<u8>,
    dropped: u64,
}

impl Meanwhile {
    /// So many bytes are kept.
    pub const MOST: usize = 64 << 10;

    /// Nothing yet.
    pub const fn new() -> Self {
        Self { text: VecDeque::new(), dropped: 0 }
    }

    /// Keeps this, and drops the oldest where there is no room.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.text.len() >= Self::MOST {
                self.text.pop_front();
                self.dropped = self.dropped.saturating_add(1);
            }
            self.text.push_back(byte);
        }
    }

    /// What the report says of it; nothing where nothing was said.
    pub fn report(&self) -> Option<MeanwhileReport> {
        let said = !self.text.is_empty() || self.dropped != 0;
        let bytes: alloc::vec::Vec<u8> = self.text.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        said.then_some(MeanwhileReport { text, dropped_bytes: self.dropped })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn the_last_is_kept_and_what_is_dropped_is_counted() {
        let mut kept = Meanwhile::default();
        assert_eq!(kept.report(), None);
        kept.push(b"first\n");
        let report = MeanwhileReport { text: "first\n".into(), dropped_bytes: 0 };
        assert_eq!(kept.report(), Some(report));
        kept.push(&vec![b'x'; Meanwhile::MOST]);
        kept.push(b"last \xff\n");
        let report = kept.report().unwrap();
        assert_eq!(report.dropped_bytes, 6 + 7);
        assert!(report.text.starts_with('x') && report.text.ends_with("last \u{fffd}\n"));
    }
}
