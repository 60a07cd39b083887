//! Writes device trees for tests (Devicetree Specification 0.4, chapter 5).

/// A tree while it is written. The root is the first node begun, and ends by itself.
#[derive(Clone)]
pub struct Builder {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    pub fn new() -> Self {
        Self { structure: Vec::new(), strings: Vec::new() }
    }

    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn pad(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    pub fn begin(&mut self, name: &str) -> &mut Self {
        self.word(1);
        self.structure.extend(name.as_bytes());
        self.structure.push(0);
        self.pad();
        self
    }

    pub fn end(&mut self) -> &mut Self {
        self.word(2);
        self
    }

    fn property(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let wanted = [name.as_bytes(), &[0]].concat();
        let known = self.strings.windows(wanted.len()).position(|part| part == wanted);
        let at = known.unwrap_or_else(|| {
            self.strings.extend(&wanted);
            self.strings.len() - wanted.len()
        });
        self.word(3);
        self.word(value.len() as u32);
        self.word(at as u32);
        self.structure.extend(value);
        self.pad();
        self
    }

    pub fn cells(&mut self, name: &str, cells: &[u32]) -> &mut Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &value)
    }

    pub fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.property(name, &[text.as_bytes(), &[0]].concat())
    }

    pub fn flag(&mut self, name: &str) -> &mut Self {
        self.property(name, &[])
    }

    pub fn finish(&self) -> Vec<u8> {
        let mut structure = self.structure.clone();
        structure.extend(2u32.to_be_bytes());
        structure.extend(9u32.to_be_bytes());
        let (reservations, at) = (40, 40 + 16);
        let strings = at + structure.len();
        let total = strings + self.strings.len();
        let header = [
            0xd00d_feed,
            total as u32,
            at as u32,
            strings as u32,
            reservations,
            17,
            16,
            0,
            self.strings.len() as u32,
            structure.len() as u32,
        ];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        blob.resize(at, 0);
        blob.extend(structure);
        blob.extend(&self.strings);
        blob
    }
}
