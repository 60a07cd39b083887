//! One table of the file and typed access to its keys.

use alloc::format;
use alloc::string::String;
use alloc::string::ToString;
use alloc::vec::Vec;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::{Reader, kind, text};
use crate::model::Item;

/// Bytes of a string, and entries of a list: more is a mistake, and would pass what a bundle's header holds.
const MOST_TEXT: usize = 4096;
const MOST_ENTRIES: usize = 4096;

/// A table, what its keys are called as items, and what it is called in messages.
pub(super) struct Section<'r, 't, 'i, N> {
    reader: &'r mut Reader,
    table: &'t DeTable<'i>,
    place: usize,
    item: N,
    title: &'static str,
}

/// Tables with the byte at which each starts.
pub(super) type Tables<'t, 'i> = Vec<(&'t DeTable<'i>, usize)>;

impl<'r, 't, 'i, N: Fn(String) -> Item> Section<'r, 't, 'i, N> {
    /// Notes the place of the table and of all its keys.
    pub fn new(
        reader: &'r mut Reader,
        table: &'t DeTable<'i>,
        place: usize,
        item: N,
        title: &'static str,
    ) -> Self {
        reader.spans.insert(item(String::new()), place);
        for (key, _) in table {
            reader.spans.insert(item(key.get_ref().to_string()), key.span().start);
        }
        // The file's own keys are items of their own kind, so that the loop above named them all `File`.
        reader.spans.insert(item(String::new()), place);
        Self { reader, table, place, item, title }
    }

    /// Complains of every key that isn't `known`.
    pub fn known(&mut self, known: &[&str]) {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let nearest = text::nearest(name, known).unwrap_or_default();
                let message =
                    format!("unknown key `{name}` in {}: the nearest known one is `{nearest}`", self.title);
                self.complain(name, key.span().start, message);
            }
        }
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.table.get(key)
    }

    /// A problem of a key at a place.
    pub fn complain(&mut self, key: &str, place: usize, message: String) {
        let item = (self.item)(key.to_string());
        self.reader.problem(item, place, message);
    }

    /// A problem of a key, at its value if it is there, else at the table.
    pub fn wrong(&mut self, key: &str, message: String) {
        let place = self.get(key).map_or(self.place, |value| value.span().start);
        self.complain(key, place, message);
    }

    /// The key is not there.
    pub fn missing(&mut self, key: &str, expected: &str) {
        let message = format!("{} needs `{key}`: {expected}", self.title);
        self.complain(key, self.place, message);
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let message = format!("`{key}` must be {expected}, not {}", kind(value.get_ref()));
        self.complain(key, value.span().start, message);
    }

    /// A table. Complains if it is needed and missing.
    pub fn table(&mut self, key: &str, needed: bool) -> Option<(&'t DeTable<'i>, usize)> {
        let Some(value) = self.get(key) else {
            if needed {
                self.missing(key, &format!("a table [{key}]"));
            }
            return None;
        };
        match value.get_ref() {
            DeValue::Table(table) => Some((table, value.span().start)),
            _ => {
                self.wrong_type(key, value, &format!("a table [{key}]"));
                None
            }
        }
    }

    /// An array of tables, or none.
    pub fn tables(&mut self, key: &str) -> Tables<'t, 'i> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let expected = format!("tables [[{key}]]");
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(key, value, &expected);
            return Vec::new();
        };
        let mut tables = Vec::new();
        self.bound(key, value, array.len());
        for element in array.iter().take(MOST_ENTRIES) {
            match element.get_ref() {
                DeValue::Table(table) => tables.push((table, element.span().start)),
                _ => self.wrong_type(key, element, &expected),
            }
        }
        tables
    }

    /// Complains of a list that is longer than any that means something.
    fn bound(&mut self, key: &str, value: &Spanned<DeValue<'_>>, entries: usize) {
        if entries > MOST_ENTRIES {
            let message = format!("`{key}` has {entries} entries: {MOST_ENTRIES} are the most");
            self.complain(key, value.span().start, message);
        }
    }

    /// A string.
    pub fn string(&mut self, key: &str) -> Option<String> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) if text.len() > MOST_TEXT => {
                let message = format!("`{key}` has {} bytes: {MOST_TEXT} are the most", text.len());
                self.complain(key, value.span().start, message);
                None
            }
            DeValue::String(text) => Some(text.to_string()),
            _ => {
                self.wrong_type(key, value, "a string");
                None
            }
        }
    }

    /// An array of strings with their places.
    pub fn strings(&mut self, key: &str) -> Option<Vec<(String, usize)>> {
        let value = self.get(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(key, value, "an array of strings");
            return None;
        };
        let mut strings = Vec::new();
        for element in array.iter() {
            match element.get_ref() {
                DeValue::String(text) if text.len() > MOST_TEXT => {
                    let message =
                        format!("`{key}` has a string of {} bytes: {MOST_TEXT} are the most", text.len());
                    self.complain(key, element.span().start, message);
                }
                DeValue::String(text) => strings.push((text.to_string(), element.span().start)),
                _ => self.wrong_type(key, element, "an array of strings"),
            }
        }
        Some(strings)
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let word = self.string(key)?;
        let found = words.iter().find(|(known, _)| *known == word);
        if found.is_none() {
            let known: Vec<String> = words.iter().map(|(known, _)| format!("\"{known}\"")).collect();
            self.wrong(key, format!("`{key}` can't be \"{word}\": it is one of {}", known.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(boolean) => Some(*boolean),
            _ => {
                self.wrong_type(key, value, "true or false");
                None
            }
        }
    }

    /// An integer that fits.
    pub fn number<T: TryFrom<u64>>(&mut self, key: &str) -> Option<T> {
        let value = self.get(key)?;
        self.integer(key, value)
    }

    /// An array of integers that fit, with their places. `None` if it isn't there or any element is wrong.
    pub fn numbers<T: TryFrom<u64>>(&mut self, key: &str) -> Option<Vec<(T, usize)>> {
        let value = self.get(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(key, value, "an array of integers");
            return None;
        };
        self.bound(key, value, array.len());
        let entries = array.iter().take(MOST_ENTRIES);
        let read: Vec<_> =
            entries.map(|element| Some((self.integer(key, element)?, element.span().start))).collect();
        read.into_iter().collect()
    }

    /// A number of bytes: an integer, or a string like `"512M"`.
    pub fn size(&mut self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        let DeValue::String(string) = value.get_ref() else { return self.integer(key, value) };
        let size = text::size(string);
        if size.is_none() {
            let message = format!(
                "`{key}` can't be \"{string}\": a size is a number, alone or with K, M or G right after it"
            );
            self.wrong(key, message);
        }
        size
    }

    /// An address: an integer, or a string of `0x` digits for what TOML's signed integers don't reach.
    pub fn address(&mut self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        let DeValue::String(string) = value.get_ref() else { return self.integer(key, value) };
        let address = text::number(string);
        if address.is_none() {
            self.wrong(key, format!("`{key}` can't be \"{string}\": an address is a number, as 0x0903_0000"));
        }
        address
    }

    fn integer<T: TryFrom<u64>>(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<T> {
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(key, value, "an integer");
            return None;
        };
        let number = unsigned(integer).and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            let bits = 8 * size_of::<T>();
            let message =
                format!("`{key}` can't be {integer}: it is an integer from 0 that fits into {bits} bits");
            self.complain(key, value.span().start, message);
        }
        number
    }
}

fn unsigned(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
