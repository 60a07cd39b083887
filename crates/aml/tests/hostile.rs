//! AML that means ill, or nothing: nothing panics, and everything ends.

use std::time::{Duration, Instant};

use axvm_aml::{Aml, Error, Hardware, NodeId, Nothing, PciFunction, Space, resource};
use proptest::prelude::*;

const DSDT: &[u8] = include_bytes!("data/q35-dsdt.dat");
const INDEXED: &[u8] = include_bytes!("data/indexed.aml");

/// A table with this code, whose integers have 64 bits.
fn table(code: &[u8]) -> Vec<u8> {
    let mut table = vec![0; 36];
    table[8] = 2;
    table.extend(code);
    table
}

fn loaded(code: &[u8]) -> Aml<Nothing> {
    let mut aml = Aml::new(Nothing);
    aml.load(&table(code));
    aml
}

/// PkgLength of so many bytes that follow it, in three bytes.
fn package(body: &[u8]) -> Vec<u8> {
    let length = body.len() + 3;
    let mut bytes = vec![0x80 | (length & 0xf) as u8, (length >> 4) as u8, (length >> 12) as u8];
    bytes.extend(body);
    bytes
}

/// `Method (NAME, arguments) { body }`.
fn method(name: &[u8; 4], arguments: u8, body: &[u8]) -> Vec<u8> {
    let mut inner = name.to_vec();
    inner.push(arguments);
    inner.extend(body);
    [vec![0x14], package(&inner)].concat()
}

fn result(code: &[u8], name: &[u8; 4]) -> Result<axvm_aml::Answer, Error> {
    let mut aml = loaded(code);
    assert_eq!(aml.failures(), []);
    let id = aml.child(aml.root(), name).unwrap();
    aml.evaluate(id, &[])
}

#[test]
fn loops_end() {
    // While (One) { Noop }
    let body = [vec![0xa2], package(&[0x01, 0xa3])].concat();
    assert_eq!(result(&method(b"LOOP", 0, &body), b"LOOP"), Err(Error::Steps));
    // While a table is loaded, too.
    assert_eq!(loaded(&body).failures()[0].error, Some(Error::Steps));
    // While (One) { } has no statement to count.
    let body = [vec![0xa2], package(&[0x01])].concat();
    assert_eq!(result(&method(b"LOOP", 0, &body), b"LOOP"), Err(Error::Steps));
    // While (One) { Continue }
    let body = [vec![0xa2], package(&[0x01, 0x9f])].concat();
    assert_eq!(result(&method(b"LOOP", 0, &body), b"LOOP"), Err(Error::Steps));
}

#[test]
fn all_evaluations_together_end_too() {
    let body = [vec![0xa2], package(&[0x01, 0xa3])].concat();
    let mut aml = loaded(&method(b"LOOP", 0, &body));
    let id = aml.child(aml.root(), b"LOOP").unwrap();
    let start = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(aml.evaluate(id, &[]), Err(Error::Steps));
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn recursion_ends() {
    // Return (RECU ())
    assert_eq!(result(&method(b"RECU", 0, b"\xa4RECU"), b"RECU"), Err(Error::Depth));
    // Return (Not (Not (...)))
    let mut body = vec![0xa4];
    body.extend([0x80; 1000]);
    assert_eq!(result(&method(b"DEEP", 0, &body), b"DEEP"), Err(Error::Depth));
}

#[test]
fn chains_of_else_are_not_nesting() {
    // If (Zero) {} Else { If (Zero) {} Else { ... Return (7) } }
    let mut body = vec![0xa4, 0x0a, 7];
    for _ in 0..500 {
        body = [vec![0xa0], package(&[0x00]), vec![0xa1], package(&body)].concat();
    }
    let answer = result(&method(b"CASE", 0, &body), b"CASE").unwrap();
    assert_eq!(answer.value.integer(), Some(7));
}

#[test]
fn memory_is_bounded() {
    // Return (Buffer (0xffffffff) {})
    let huge = [vec![0xa4, 0x11], package(&[0x0c, 0xff, 0xff, 0xff, 0xff])].concat();
    assert_eq!(result(&method(b"HUGE", 0, &huge), b"HUGE"), Err(Error::Memory));
    // Store (Buffer (1), Local0); While (One) { Concatenate (Local0, Local0, Local0) }
    let double =
        [vec![0x70, 0x11], package(&[0x01]), vec![0x60, 0xa2], package(&[0x01, 0x73, 0x60, 0x60, 0x60])]
            .concat();
    assert_eq!(result(&method(b"DOUB", 0, &double), b"DOUB"), Err(Error::Memory));
    // VarPackage (0xffffffffffffffff)
    let many = [vec![0xa4, 0x13], package(&[0x0e, 255, 255, 255, 255, 255, 255, 255, 255])].concat();
    assert_eq!(result(&method(b"MANY", 0, &many), b"MANY"), Err(Error::Memory));
}

#[test]
fn a_package_in_itself_is_not_followed_for_ever() {
    // Name (LOOP, Package () { Zero }); Method (KNOT) { CopyObject (RefOf (LOOP), Index (LOOP, 0)); Return (LOOP) }
    let mut code = b"\x08LOOP".to_vec();
    code.extend([0x12, 3, 1, 0]);
    code.extend(method(b"KNOT", 0, b"\x9d\x71LOOP\x88LOOP\x00\x00\xa4LOOP"));
    assert_eq!(result(&code, b"KNOT"), Err(Error::Depth));
}

#[test]
fn a_chain_of_references_does_not_grow() {
    // Local0 = Package () { 0 }; While (1) { Local1 = Package () { 0 }; Local1[0] = a reference to Local0[0]; Local0 = Local1 }: taking it
    // apart would take a step of the stack for each link.
    let turn = b"\x01\x70\x12\x03\x01\x00\x61\x70\x88\x60\x00\x00\x88\x61\x00\x00\x70\x61\x60";
    let body = [b"\x70\x12\x03\x01\x00\x60\xa2".to_vec(), package(turn)].concat();
    let code = method(b"CHAI", 0, &body);
    on_a_small_stack(move || assert_eq!(result(&code, b"CHAI"), Err(Error::Type)));
    // Package () { Index (Local0, 0) } the same.
    let turn = b"\x01\x70\x12\x06\x01\x88\x60\x00\x00\x60";
    let body = [b"\x70\x12\x03\x01\x00\x60\xa2".to_vec(), package(turn)].concat();
    let code = method(b"CHAI", 0, &body);
    on_a_small_stack(move || assert_eq!(result(&code, b"CHAI"), Err(Error::Type)));
}

#[test]
fn a_broken_device_costs_no_other() {
    // Device (BAD_) { an opcode that is none } Device (GOOD) { Name (_ADR, 5) }
    let bad = [b"\x5b\x82".to_vec(), package(b"BAD_\x02\x03")].concat();
    let good = [b"\x5b\x82".to_vec(), package(b"GOOD\x08_ADR\x0a\x05")].concat();
    let mut aml = loaded(&[bad, good].concat());
    assert_eq!(aml.failures().len(), 1);
    assert_eq!(
        (aml.failures()[0].scope.as_str(), aml.failures()[0].error),
        ("\\BAD", Some(Error::Opcode(2)))
    );
    let id = aml.find(aml.root(), "GOOD._ADR").unwrap();
    assert_eq!(aml.evaluate(id, &[]).unwrap().value.integer(), Some(5));
}

#[test]
fn what_a_method_defines_is_gone_when_it_ends() {
    // Method (ONCE) { Name (TEMP, 5) Name (\\KEEP, 6) Return (TEMP) }
    let mut aml = loaded(&method(b"ONCE", 0, b"\x08TEMP\x0a\x05\x08\\KEEP\x0a\x06\xa4TEMP"));
    let id = aml.child(aml.root(), b"ONCE").unwrap();
    for _ in 0..3 {
        assert_eq!(aml.evaluate(id, &[]).unwrap().value.integer(), Some(5));
        assert_eq!(aml.child(id, b"TEMP"), None);
        assert_eq!(aml.child(aml.root(), b"KEEP"), None);
    }
    assert_eq!(aml.child(aml.root(), b"ONCE"), Some(id), "what was there before stays");
}

#[test]
fn a_scope_that_is_nowhere_is_passed_by() {
    // Scope (NONE) { Name (A___, 1) } Name (B___, 2)
    let code = [vec![0x10], package(b"NONE\x08A___\x01"), b"\x08B___\x0a\x02".to_vec()].concat();
    let aml = loaded(&code);
    assert_eq!((aml.failures().len(), aml.failures()[0].error), (1, Some(Error::NoObject)));
    assert!(aml.child(aml.root(), b"B___").is_some());
}

#[test]
fn what_is_stored_in_doubt_is_in_doubt_later() {
    // Name (KEPT, 5); Name (BUFF, Buffer (1) {1})
    let mut code = register();
    code.extend(b"\x08KEPT\x0a\x05");
    code.extend([b"\x08BUFF\x11".to_vec(), package(&[0x01, 0x01])].concat());
    // Method (TAKE) { Store (VAL_, KEPT) }, Method (PUT_) { Store (VAL_, Index (BUFF, 0)) }
    code.extend(method(b"TAKE", 0, b"\x70VAL_KEPT"));
    code.extend(method(b"PUT_", 0, b"\x70VAL_\x88BUFF\x00\x00"));
    code.extend(method(b"GIVE", 0, b"\xa4KEPT"));
    code.extend(method(b"SHOW", 0, b"\xa4BUFF"));
    // Name (PACK, Package () { One }), Method (PUTP) { Store (VAL_, Index (PACK, 0)) }, Method (SHOP) { Return (PACK) }
    code.extend(b"\x08PACK\x12\x03\x01\x01");
    code.extend(method(b"PUTP", 0, b"\x70VAL_\x88PACK\x00\x00"));
    code.extend(method(b"SHOP", 0, b"\xa4PACK"));
    let mut aml = loaded(&code);
    let mut sure = |name| {
        let id = aml.child(aml.root(), name).unwrap();
        aml.evaluate(id, &[]).unwrap().is_sure
    };
    assert!(sure(b"GIVE") && sure(b"SHOW") && sure(b"SHOP"));
    for name in [b"TAKE", b"PUT_", b"PUTP"] {
        sure(name);
    }
    assert!(!sure(b"GIVE") && !sure(b"SHOW") && !sure(b"SHOP"));
}

/// `OperationRegion (REG_, SystemMemory, 0, 4); Field (REG_, DWordAcc) { VAL_, 32 }`.
fn register() -> Vec<u8> {
    let field = [b"\x5b\x81".to_vec(), package(b"REG_\x03VAL_\x20")].concat();
    [b"\x5b\x80REG_\x00\x00\x0a\x04".to_vec(), field].concat()
}

#[test]
fn what_hardware_decides_is_in_doubt_and_what_it_does_not_is_sure() {
    let code = [
        register(),
        b"\x08MODE\x00".to_vec(),
        // Method (POKE) { If (VAL_) { Noop } } Method (TELL, 1) { POKE () Store (Arg0, MODE) } Method (GIVE) { Return (MODE) }
        method(b"POKE", 0, &[vec![0xa0], package(b"VAL_\xa3")].concat()),
        method(b"TELL", 1, b"POKE\x70\x68MODE"),
        method(b"GIVE", 0, b"\xa4MODE"),
        // Method (EARL) { If (VAL_) { Return (One) } Return (5) }: the second one is reached because of it.
        method(b"EARL", 0, &[vec![0xa0], package(b"VAL_\xa4\x01"), vec![0xa4, 0x0a, 5]].concat()),
        // Method (PART) { If (VAL_) { Store (5, MODE) } Return (One) }: so may be what it returns.
        method(b"PART", 0, &[vec![0xa0], package(b"VAL_\x70\x0a\x05MODE"), vec![0xa4, 0x01]].concat()),
        // Method (LOCA) { Store (VAL_, Local0) Store (3, Local1) Return (Local1) }, and of Local0.
        method(b"LOCA", 0, b"\x70VAL_\x60\x70\x0a\x03\x61\xa4\x61"),
        method(b"LOCB", 0, b"\x70VAL_\x60\x70\x0a\x03\x61\xa4\x60"),
        // Method (PASS, 2) { Return (Arg1) } Method (CALA) { Return (PASS (VAL_, 1)) } Method (CALB) { Return (PASS (1, VAL_)) }
        method(b"PASS", 2, b"\xa4\x69"),
        method(b"CALA", 0, b"\xa4PASSVAL_\x01"),
        method(b"CALB", 0, b"\xa4PASS\x01VAL_"),
    ]
    .concat();
    let mut aml = loaded(&code);
    assert_eq!(aml.failures(), []);
    let mut sure = |name: &[u8; 4]| {
        let id = aml.child(aml.root(), name).unwrap();
        aml.evaluate(id, &[1]).unwrap().is_sure
    };
    sure(b"TELL");
    assert!(sure(b"GIVE"), "what is told isn't what hardware was asked before");
    assert!(!sure(b"EARL") && !sure(b"PART"));
    assert!(sure(b"LOCA") && !sure(b"LOCB"));
    assert!(sure(b"CALA") && !sure(b"CALB"));
}

/// Hardware that says whatever comes.
struct Noise(u64);

impl Hardware for Noise {
    fn read(&mut self, _: Space, address: u64, _: u8) -> Option<u64> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(address | 1);
        (self.0 >> 62 != 0).then_some(self.0 >> 8)
    }

    fn config(&mut self, function: PciFunction, offset: u16, bytes: u8) -> Option<u64> {
        assert!(
            function.device < 32
                && function.function < 8
                && offset.is_multiple_of(bytes.into())
                && bytes <= 4
        );
        self.read(Space::PciConfig, offset.into(), bytes)
    }

    fn write(&mut self, space: Space, address: u64, bytes: u8, value: u64) -> bool {
        assert!(bytes == 8 || value >> (8 * bytes) == 0);
        self.read(space, address, bytes).is_some()
    }

    fn set_config(&mut self, function: PciFunction, offset: u16, bytes: u8, value: u64) -> bool {
        assert!(bytes <= 4 && value >> (8 * bytes) == 0);
        self.config(function, offset, bytes).is_some()
    }
}

/// Everything that a table defines is evaluated.
fn evaluate_all(table: &[u8], seed: u64) {
    let mut aml = Aml::new(Noise(seed));
    aml.load(table);
    let names = [
        *b"_HID", *b"_CID", *b"_STA", *b"_CRS", *b"_PRS", *b"_PRT", *b"_DIS", *b"_SRS", *b"_BBN", *b"_SEG",
        *b"_OSC", *b"_DSM", *b"_EJ0", *b"_OST",
    ];
    let ids: Vec<NodeId> =
        aml.devices().flat_map(|id| names.map(|name| aml.child(id, &name))).flatten().collect();
    for id in ids
        .into_iter()
        .chain([b"_PIC", b"_S5_", b"DBUG"].map(|name| aml.child(aml.root(), name)).into_iter().flatten())
    {
        if let Ok(answer) = aml.evaluate(id, &[seed, 1, 2])
            && let Some(bytes) = answer.value.bytes()
        {
            resource::read(bytes);
        }
        let _ = aml.path(id);
    }
}

/// In a thread with the stack that a small machine has.
fn on_a_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(128 << 10).spawn(f).unwrap().join().unwrap();
}

#[test]
fn the_deepest_nesting_needs_little_stack() {
    on_a_small_stack(|| {
        assert_eq!(result(&method(b"RECU", 0, b"\xa4RECU"), b"RECU"), Err(Error::Depth));
        let mut body = vec![0xa4];
        body.extend([0x80; 1000]);
        assert_eq!(result(&method(b"DEEP", 0, &body), b"DEEP"), Err(Error::Depth));
        evaluate_all(DSDT, 3);
    });
}

proptest! {
    #[test]
    fn a_damaged_dsdt_does_no_harm(
        changes in prop::collection::vec((36..DSDT.len(), any::<u8>()), 1..20),
        seed in any::<u64>(),
    ) {
        let mut table = DSDT.to_vec();
        for (at, byte) in changes {
            table[at] = byte;
        }
        evaluate_all(&table, seed);
    }

    #[test]
    fn damaged_fields_do_no_harm(
        changes in prop::collection::vec((36..INDEXED.len(), any::<u8>()), 0..20),
        argument in any::<u64>(),
    ) {
        let mut table = INDEXED.to_vec();
        for (at, byte) in changes {
            table[at] = byte;
        }
        let mut aml = Aml::new(Noise(argument));
        aml.load(&table);
        for name in [b"WWHL", b"WHGH", b"WWRD", b"WDEP", b"WLST", b"WONE", b"WZER", b"WOVR", b"WGON", b"WDM1", b"WDBT"] {
            if let Some(id) = aml.child(aml.root(), name) {
                let _ = aml.evaluate(id, &[argument]);
            }
        }
    }

    #[test]
    fn a_dsdt_that_is_cut_off_does_no_harm(length in 0..DSDT.len()) {
        evaluate_all(&DSDT[..length], 1);
    }

    #[test]
    fn any_bytes_do_no_harm(code in prop::collection::vec(any::<u8>(), 0..300), seed in any::<u64>()) {
        evaluate_all(&table(&code), seed);
        // As a method's body, which is evaluated.
        let mut aml = Aml::new(Noise(seed));
        aml.load(&table(&method(b"TEST", 7, &code)));
        if let Some(id) = aml.child(aml.root(), b"TEST") {
            let _ = aml.evaluate(id, &[seed, 1, 2]);
        }
    }

    #[test]
    fn opcodes_in_any_order_do_no_harm(code in prop::collection::vec(prop::sample::select(OPCODES), 0..200)) {
        let mut aml = loaded(&method(b"TEST", 7, &code));
        let id = aml.child(aml.root(), b"TEST").unwrap();
        let _ = aml.evaluate(id, &[5, 6, 7]);
    }

    #[test]
    fn any_resources_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        resource::read(&bytes);
    }
}

/// Those that expressions consist of: random bytes seldom go together.
const OPCODES: &[u8] = &[
    0x00, 0x01, 0xff, 0x0a, 0x10, 0x11, 0x12, 0x13, 0x60, 0x61, 0x68, 0x69, 0x70, 0x71, 0x72, 0x73, 0x74,
    0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x87, 0x88, 0x89, 0x8a,
    0x8d, 0x8e, 0x8f, 0x90, 0x92, 0x93, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1,
    0xa2, 0xa4, 0xa5, 0x5b, 0x13, 0x05, 0x08,
];
