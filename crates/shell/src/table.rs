//! Lines whose columns stand below each other.

use alloc::string::String;
use alloc::vec::Vec;

/// What stands between two columns.
const GAP: usize = 2;

/// Rows of cells.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn row(&mut self, cells: &[&str]) {
        self.rows.push(cells.iter().map(|&cell| cell.into()).collect());
    }

    /// Its lines. None ends with a blank.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut blanks = 0;
            for (cell, width) in row.iter().zip(&widths) {
                if !cell.is_empty() {
                    text.extend(core::iter::repeat_n(' ', blanks));
                    text.push_str(cell);
                    blanks = 0;
                }
                blanks += width - cell.chars().count() + if *width == 0 { 0 } else { GAP };
            }
            text.push('\n');
        }
        text
    }
}
