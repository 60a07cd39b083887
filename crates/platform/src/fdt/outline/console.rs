//! The console.

use axvm_addr::{Hpa, Span};
use axvm_uart::{Description, Kind, Properties};

use super::super::address::Cells;
use super::{Outline, is_called, texts};
use crate::uart::{EarlyConsole, UartPlace};

impl Outline<'_> {
    /// What `/chosen/stdout-path` names, if that is a UART that can be driven.
    pub fn console(&self) -> Option<EarlyConsole> {
        let chosen = self.chosen?;
        let stdout = self.property(chosen, "stdout-path");
        let named = stdout.or_else(|| self.property(chosen, "linux,stdout-path"))?;
        let named = texts(named).next()?.split(':').next()?;
        let path = match named.starts_with('/') {
            true => named,
            // An alias (3.3); one with more behind it has not been seen for a console.
            false => texts(self.property(self.aliases?, named)?).next()?,
        };
        // Of most nodes their own name says that they aren't it.
        let last = path.rsplit('/').find(|name| !name.is_empty())?;
        let mut clock = None;
        let (uart, registers) = self.find(|node| {
            if !is_called(node.name(), last) || !node.is_at(path) || !node.is_enabled() {
                return None;
            }
            let properties = Properties {
                shift: node.u32(0, "reg-shift"),
                width: node.u32(0, "reg-io-width"),
                offset: node.u32(0, "reg-offset"),
                big_endian: node.property("big-endian").is_some(),
            };
            let uart = Description::find(node.texts("compatible"), &properties)?;
            let mut place = None;
            node.registers(&mut |start, size| {
                place = place.or_else(|| Span::new(Hpa(node.translate(start, size)?), size).ok());
            })
            .ok()?;
            if uart.kind == Kind::Pl011 {
                // The only one that may need it.
                clock = Cells(node.property("clocks").unwrap_or_default()).next();
            }
            Some((uart, place.filter(|it| it.size() >= u64::from(uart.size()))?))
        })?;
        let clock_hz = clock.and_then(|clock| {
            self.find(|node| {
                let fixed = node.has_phandle(clock) && node.has_text("compatible", "fixed-clock");
                if fixed { node.u32(0, "clock-frequency") } else { None }
            })
        });
        Some(EarlyConsole { uart, place: UartPlace::Memory(registers), clock_hz })
    }
}
