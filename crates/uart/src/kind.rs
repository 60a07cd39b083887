//! Which kind a UART is and how its registers lie, as its node in the device tree says.

use crate::model::Model;
use crate::{
    Width, armada3700, cadence, exynos, geni, imx, lpuart, meson, ns16550, owl, pl011, scif, stm32, uartdm,
    unisoc,
};

/// A kind of UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 8250, 16550 and their kin.
    Ns16550,
    /// UniPhier's relative of the 16550.
    UniPhier,
    /// The relative in EMMA Mobile and RZ/V2M.
    Emma,
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
    /// The 8-bit LPUART.
    LpuartBytes,
    /// Amlogic's.
    Meson,
    /// Qualcomm's GENI.
    Geni,
    /// Qualcomm's UARTDM 1.4.
    Uartdm,
    /// Samsung's.
    Exynos,
    /// Renesas' SCIF and HSCIF.
    Scif,
    /// STM32's.
    Stm32,
    /// The first of Marvell's Armada 3700.
    Armada3700,
    /// The second of it.
    Armada3700Extended,
    /// Unisoc's.
    Unisoc,
    /// That of Actions' Owl family.
    Owl,
}

impl Kind {
    pub(crate) fn model(self) -> &'static Model {
        match self {
            Kind::Ns16550 => &ns16550::MODEL,
            Kind::UniPhier => &ns16550::UNIPHIER,
            Kind::Emma => &ns16550::EMMA,
            Kind::Pl011 => &pl011::MODEL,
            Kind::Sbsa => &pl011::SBSA,
            Kind::Cadence => &cadence::MODEL,
            Kind::Imx => &imx::MODEL,
            Kind::Lpuart => &lpuart::MODEL,
            Kind::LpuartBytes => &lpuart::BYTES,
            Kind::Meson => &meson::MODEL,
            Kind::Geni => &geni::MODEL,
            Kind::Uartdm => &uartdm::MODEL,
            Kind::Exynos => &exynos::MODEL,
            Kind::Scif => &scif::MODEL,
            Kind::Stm32 => &stm32::MODEL,
            Kind::Armada3700 => &armada3700::MODEL,
            Kind::Armada3700Extended => &armada3700::EXTENDED,
            Kind::Unisoc => &unisoc::MODEL,
            Kind::Owl => &owl::MODEL,
        }
    }
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

/// What names stand for, several with a space between them. Meson's aren't among them: each chip has one.
#[rustfmt::skip]
const KNOWN: &[(&str, Description)] = &[
    ("arm,pl011", Description::of(Kind::Pl011)),
    ("arm,sbsa-uart", Description::of(Kind::Sbsa)),
    (
        "ns8250 ns16450 ns16550 ns16550a ns16850 snps,dw-apb-uart",
        Description::ns16550(Width::Byte, 0),
    ),
    (
        "brcm,bcm2835-aux-uart mediatek,mt6577-uart nvidia,tegra20-hsuart nvidia,tegra30-hsuart nvidia,tegra186-hsuart",
        Description::ns16550(Width::Word, WORDS),
    ),
    (
        "ti,omap2-uart ti,omap3-uart ti,omap4-uart ti,am654-uart ti,am64-uart nvidia,tegra20-uart",
        Description::ns16550(Width::Byte, WORDS),
    ),
    ("socionext,uniphier-uart", Description { shift: WORDS, ..Description::of(Kind::UniPhier) }),
    ("renesas,em-uart", Description { shift: WORDS, ..Description::of(Kind::Emma) }),
    ("xlnx,xuartps cdns,uart-r1p8 cdns,uart-r1p12", Description::of(Kind::Cadence)),
    ("fsl,imx21-uart fsl,imx6q-uart", Description::of(Kind::Imx)),
    ("fsl,ls1021a-lpuart", Description { big_endian: true, ..Description::of(Kind::Lpuart) }),
    ("fsl,ls1028a-lpuart", Description::of(Kind::Lpuart)),
    (
        "fsl,imx7ulp-lpuart fsl,imx8qxp-lpuart fsl,imxrt1050-lpuart",
        Description { offset: LPUART_IDENTITY, ..Description::of(Kind::Lpuart) },
    ),
    ("fsl,vf610-lpuart", Description { width: Width::Byte, ..Description::of(Kind::LpuartBytes) }),
    ("qcom,geni-debug-uart qcom,geni-uart", Description::of(Kind::Geni)),
    ("qcom,msm-uartdm-v1.4", Description::of(Kind::Uartdm)),
    (
        "samsung,exynos4210-uart samsung,exynos5433-uart samsung,exynos850-uart samsung,exynos8895-uart \
         google,gs101-uart axis,artpec8-uart",
        Description::of(Kind::Exynos),
    ),
    ("renesas,scif renesas,hscif", Description::scif(2)),
    ("renesas,scif-r9a07g044 renesas,scif-r9a09g057", Description::scif(1)),
    ("st,stm32f7-uart st,stm32h7-uart", Description::of(Kind::Stm32)),
    ("marvell,armada-3700-uart", Description::of(Kind::Armada3700)),
    ("marvell,armada-3700-uart-ext", Description::of(Kind::Armada3700Extended)),
    ("sprd,sc9836-uart", Description::of(Kind::Unisoc)),
    ("actions,s500-uart actions,s700-uart actions,s900-uart actions,owl-uart", Description::of(Kind::Owl)),
];

impl Description {
    const fn of(kind: Kind) -> Self {
        Self { kind, width: Width::Word, shift: 0, offset: 0, big_endian: false }
    }

    const fn ns16550(width: Width, shift: u8) -> Self {
        Self { width, shift, ..Self::of(Kind::Ns16550) }
    }

    const fn scif(shift: u8) -> Self {
        Self { width: Width::Half, shift, ..Self::of(Kind::Scif) }
    }

    fn compatible(name: &str) -> Option<Self> {
        if name.starts_with("amlogic,meson") && name.ends_with("-uart") {
            return Some(Self::of(Kind::Meson));
        }
        KNOWN
            .iter()
            .find(|(names, _)| names.split(' ').any(|known| known == name))
            .map(|&(_, description)| description)
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
            Some(4) if found.kind == Kind::Ns16550 || found.width == Width::Word => found.width = Width::Word,
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

    /// Whether one that somebody else has driven can be made again what it was ([`crate::Uart::restore`]).
    pub fn can_be_restored(&self) -> bool {
        !self.kind.model().settings.is_empty()
    }

    /// How many bytes its registers take from the block's start.
    pub fn size(&self) -> u32 {
        let last = match self.width {
            Width::Byte => 1,
            Width::Half => 2,
            Width::Word => 4,
        };
        self.place(self.kind.model().last).saturating_add(last)
    }

    pub(crate) fn place(&self, register: u16) -> u32 {
        self.offset.saturating_add(u32::from(register) << self.shift)
    }

    pub(crate) fn order(&self, width: Width, value: u32) -> u32 {
        match (self.big_endian, width) {
            (true, Width::Word) => value.swap_bytes(),
            (true, Width::Half) => u32::from((value as u16).swap_bytes()),
            _ => value,
        }
    }
}
