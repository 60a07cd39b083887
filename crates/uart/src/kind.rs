//! Which kind a UART is and how its registers lie, as its node in the device tree says.

use crate::Width;

/// A kind of UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 8250, 16550 and their kin.
    Ns16550,
    /// PL011.
    Pl011,
    /// The SBSA's generic UART.
    Sbsa,
    /// Cadence's.
    Cadence,
    /// That of i.MX21 and later.
    Imx,
    /// The 32-bit LPUART.
    Lpuart,
    /// Amlogic's.
    Meson,
    /// Qualcomm's GENI.
    Geni,
}

/// A UART as it is built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The kind.
    pub kind: Kind,
    /// How wide accesses to it are.
    pub width: Width,
    /// Register `n` is at `n << shift`.
    pub shift: u8,
    /// Where the first register is in the block.
    pub offset: u32,
    /// Whether registers of several bytes are big-endian.
    pub big_endian: bool,
}

/// What a UART's node says of its registers (devicetree bindings, serial/8250.yaml).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// `reg-shift`.
    pub shift: Option<u32>,
    /// `reg-io-width`.
    pub width: Option<u32>,
    /// `reg-offset`.
    pub offset: Option<u32>,
    /// `big-endian`.
    pub big_endian: bool,
}

/// The shift of those that say none because their kind has one.
const WORDS: u8 = 2;
/// On i.MX an LPUART's first four registers say what it is.
const LPUART_IDENTITY: u32 = 0x10;

impl Description {
    const fn of(kind: Kind) -> Self {
        Self { kind, width: Width::Word, shift: 0, offset: 0, big_endian: false }
    }

    const fn ns16550(width: Width, shift: u8) -> Self {
        Self { width, shift, ..Self::of(Kind::Ns16550) }
    }

    fn compatible(name: &str) -> Option<Self> {
        Some(match name {
            "arm,pl011" => Self::of(Kind::Pl011),
            "arm,sbsa-uart" => Self::of(Kind::Sbsa),
            "ns8250" | "ns16450" | "ns16550" | "ns16550a" | "ns16850" | "snps,dw-apb-uart" => {
                Self::ns16550(Width::Byte, 0)
            }
            "brcm,bcm2835-aux-uart" | "mediatek,mt6577-uart" => Self::ns16550(Width::Word, WORDS),
            "ti,omap2-uart"
            | "ti,omap3-uart"
            | "ti,omap4-uart"
            | "ti,am654-uart"
            | "ti,am64-uart"
            | "nvidia,tegra20-uart" => Self::ns16550(Width::Byte, WORDS),
            "xlnx,xuartps" | "cdns,uart-r1p8" | "cdns,uart-r1p12" => Self::of(Kind::Cadence),
            "fsl,imx21-uart" | "fsl,imx6q-uart" => Self::of(Kind::Imx),
            "fsl,ls1021a-lpuart" => Self { big_endian: true, ..Self::of(Kind::Lpuart) },
            "fsl,ls1028a-lpuart" => Self::of(Kind::Lpuart),
            "fsl,imx7ulp-lpuart" | "fsl,imx8qxp-lpuart" | "fsl,imxrt1050-lpuart" => {
                Self { offset: LPUART_IDENTITY, ..Self::of(Kind::Lpuart) }
            }
            "qcom,geni-debug-uart" => Self::of(Kind::Geni),
            _ if name.starts_with("amlogic,meson") && name.ends_with("-uart") => Self::of(Kind::Meson),
            _ => return None,
        })
    }

    /// The UART that the first of these names which is known stands for; `None`: none of them is, or its registers lie in a way
    /// that isn't served.
    pub fn find<'a>(compatible: impl IntoIterator<Item = &'a str>, properties: &Properties) -> Option<Self> {
        let mut found = compatible.into_iter().find_map(Self::compatible)?;
        if let Some(shift) = properties.shift {
            // A PL011 with `reg-shift` or the like would be another UART.
            found.shift = u8::try_from(shift).ok().filter(|&shift| {
                if found.kind == Kind::Ns16550 { shift <= 4 } else { shift == found.shift }
            })?;
        }
        match properties.width {
            None => {}
            Some(4) => found.width = Width::Word,
            Some(2) if found.kind == Kind::Ns16550 => found.width = Width::Half,
            Some(1) if found.kind == Kind::Ns16550 => found.width = Width::Byte,
            // Of the PL011's registers no more than 16 bits are used; all of it can be read by words (Arm DEN 0029, B.2).
            Some(2) if found.kind == Kind::Pl011 => found.width = Width::Half,
            Some(_) => return None,
        }
        found.offset = properties.offset.unwrap_or(found.offset);
        found.big_endian |= properties.big_endian;
        Some(found)
    }

    /// How many bytes its registers take from the block's start.
    pub fn size(&self) -> u32 {
        let last: u16 = match self.kind {
            Kind::Ns16550 => 7,
            Kind::Geni => 0x810,
            Kind::Imx => 0xb4,
            _ => 0x44,
        };
        self.place(last).saturating_add(4)
    }

    pub(crate) fn place(&self, register: u16) -> u32 {
        self.offset.saturating_add(u32::from(register) << self.shift)
    }

    pub(crate) fn order(&self, value: u32) -> u32 {
        match (self.big_endian, self.width) {
            (true, Width::Word) => value.swap_bytes(),
            (true, Width::Half) => u32::from((value as u16).swap_bytes()),
            _ => value,
        }
    }
}
