// A machine that has in one place what real ones have in many: for tests. `iasl -vs made-up.asl` makes made-up.aml of it, which is made-up.dat here.
DefinitionBlock ("made-up.aml", "DSDT", 2, "AXVM", "MADEUP", 1)
{
    Name (_S5, Package () { 5, 7, 0, 0 })
    // Registers, which nobody asks; and memory that is firmware's own.
    OperationRegion (REGS, SystemMemory, 0xFED40000, 0x100)
    Field (REGS, DWordAcc, NoLock, Preserve) { TOLM, 32, HERE, 32, LINE, 8 }
    OperationRegion (OWN, SystemMemory, 0x7FF00000, 0x10)
    Field (OWN, DWordAcc, NoLock, Preserve) { BASE, 32 }
    Name (APIC, 0)
    Method (POKE) { If (HERE) { LINE = 3 } }
    Method (_PIC, 1)
    {
        // Firmware touches hardware here, too.
        POKE ()
        APIC = Arg0
    }

    Scope (\_SB)
    {
        // The windows of this one are in firmware's own memory.
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_BBN, 0)
            Name (RBUF, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0x3F, 0, 0x40)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                    0, 0x80000000, 0x8FFFFFFF, 0, 0x10000000)
                QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Prefetchable, ReadWrite,
                    0, 0x2000000000, 0x20FFFFFFFF, 0, 0x100000000)
                // Over RAM, over another one, and its own registers.
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                    0, 0x10000000, 0x100FFFFF, 0, 0x100000)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                    0, 0x8F000000, 0x8F0FFFFF, 0, 0x100000)
                Memory32Fixed (ReadWrite, 0xFED10000, 0x4000)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0x1000, 0x1FFF, 0, 0x1000)
            })
            Method (_CRS)
            {
                CreateDWordField (RBUF, 26, MIN0)
                CreateDWordField (RBUF, 30, MAX0)
                CreateDWordField (RBUF, 38, LEN0)
                MIN0 = BASE
                LEN0 = (MAX0 - MIN0) + 1
                Return (RBUF)
            }
            Method (_PRT)
            {
                If (APIC) { Return (Package ()
                {
                    // Straight to a GSI, by links, by a link that can only be one, and by one that isn't known.
                    Package () { 0x0001FFFF, 0, 0, 18 },
                    Package () { 0x0001FFFF, 1, LNKA, 0 },
                    Package () { 0x0001FFFF, 2, LNKB, 0 },
                    Package () { 0x0001FFFF, 3, LNKC, 0 },
                    Package () { 0x0002FFFF, 0, LNKD, 0 },
                    Package () { 0x0002FFFF, 1, 0, 19 },
                    Package () { 0x0002FFFF, 1, 0, 20 },
                }) }
                Return (Package () { Package () { 0x0001FFFF, 0, 0, 10 } })
            }
            Device (LNKA)
            {
                Name (_HID, EisaId ("PNP0C0F"))
                Name (_CRS, ResourceTemplate () { Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) { 21 } })
            }
            Device (LNKB)
            {
                Name (_HID, EisaId ("PNP0C0F"))
                Name (_CRS, ResourceTemplate () { IRQ (Level, ActiveLow, Shared) { 11 } })
            }
            Device (LNKC)
            {
                Name (_HID, EisaId ("PNP0C0F"))
                Name (CBUF, ResourceTemplate () { Interrupt (ResourceConsumer, Level, ActiveLow, Shared) { 0 } })
                Name (_PRS, ResourceTemplate () { Interrupt (ResourceConsumer, Level, ActiveLow, Shared) { 22 } })
                Method (_CRS) { CreateDWordField (CBUF, 5, VALU) VALU = LINE Return (CBUF) }
            }
            Device (LNKD)
            {
                Name (_HID, EisaId ("PNP0C0F"))
                Name (_PRS, ResourceTemplate () { Interrupt (ResourceConsumer, Level, ActiveLow, Shared) { 22, 23 } })
                Method (_CRS) { If (LINE) { Return (_PRS) } Return (_PRS) }
            }
            // A root port with routes of its own, and a bridge behind it with none.
            Device (RP01)
            {
                Name (_ADR, 0x001C0000)
                Name (_PRT, Package () { Package () { 0xFFFF, 0, 0, 17 } })
                Device (BRDG) { Name (_ADR, 0x00030000) }
            }
        }
        // It isn't known where the windows of this one are.
        Device (PCI1)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_BBN, 0x40)
            Name (CBUF, ResourceTemplate ()
            {
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                    0, 0xD0000000, 0xDFFFFFFF, 0, 0x10000000)
            })
            Method (_CRS) { If (TOLM) { Return (CBUF) } Return (CBUF) }
        }
        // Nor whether this one is there; the next one isn't, and what is in it neither.
        Device (PCI2) { Name (_HID, EisaId ("PNP0A03")) Name (_SEG, 5) Method (_STA) { Return (HERE) } }
        Device (GONE)
        {
            Name (_HID, "ACME0001")
            Name (_STA, 0)
            Device (INNR) { Name (_HID, "ACME0002") Name (_CRS, ResourceTemplate () { IO (Decode16, 0x300, 0x300, 1, 4) }) }
        }
        Device (UAR2)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 2)
            Name (_CRS, ResourceTemplate () { IO (Decode16, 0x2F8, 0x2F8, 0, 8) IRQNoFlags () { 3 } })
        }
        Device (UAR9)
        {
            Name (_HID, "ACME0501")
            Name (_CID, Package () { "ACME0500", EisaId ("PNP0501") })
            Name (_CRS, ResourceTemplate () { IO (Decode16, 0x2F8, 0x2F8, 0, 8) })
        }
        Device (GPIO)
        {
            Name (_HID, "ACME0030")
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xFED81500, 0x300)
                Interrupt (ResourceConsumer, Level, ActiveLow, Shared) { 7 }
            })
        }
        Device (ROAM)
        {
            Name (_HID, "ACME0003")
            Name (_CRS, ResourceTemplate () { IO (Decode16, 0x100, 0x200, 8, 8) })
        }
        Device (ASKS)
        {
            Name (_HID, "ACME0004")
            Name (ABUF, ResourceTemplate () { Memory32Fixed (ReadWrite, 0xFED50000, 0x1000) })
            Method (_CRS) { CreateDWordField (ABUF, 4, WHER) WHER = TOLM Return (ABUF) }
        }
        Device (OFF_) { Name (_HID, "ACME0005") Name (_STA, 1) Name (_CRS, ResourceTemplate () { Memory32Fixed (ReadWrite, 0xFED60000, 0x1000) }) }
        Device (BORD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xFED20000, 0x1000)
                IO (Decode16, 0x680, 0x680, 1, 0x20)
                FixedIO (0x3F0, 2)
            })
        }
    }
}
