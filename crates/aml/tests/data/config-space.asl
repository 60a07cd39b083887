/* Regions of config space in each place where firmware has such. */
DefinitionBlock ("", "DSDT", 2, "AXVM", "CONFIG", 1)
{
    Device (\_SB.PCI0)
    {
        Name (_HID, EisaId ("PNP0A08"))
        Name (_CID, EisaId ("PNP0A03"))
        OperationRegion (OWN, PCI_Config, 0, 0x100)
        Field (OWN, DWordAcc, NoLock, Preserve) { Offset (0x40), OWN0, 32 }

        Device (LPC)
        {
            Name (_ADR, 0x001F0000)
            OperationRegion (REGS, PCI_Config, 0x40, 0x10)
            Field (REGS, DWordAcc, NoLock, Preserve) { Offset (4), LPC0, 32 }
        }

        Device (PORT)
        {
            Name (_ADR, 0x001C0003)
            Device (CARD)
            {
                Name (_ADR, 0)
                OperationRegion (REGS, PCI_Config, 0, 0x100)
                Field (REGS, DWordAcc, NoLock, Preserve) { Offset (0x48), CRD0, 32 }
                Method (ASK, 0, Serialized)
                {
                    OperationRegion (MORE, PCI_Config, 0x40, 0x10)
                    Field (MORE, DWordAcc, NoLock, Preserve) { Offset (0xC), CRD1, 32 }
                    Return (CRD1)
                }
            }
            Device (NONE)
            {
                Name (_HID, EisaId ("PNP0C02"))
                Device (DEEP)
                {
                    Name (_ADR, 0)
                    OperationRegion (REGS, PCI_Config, 0, 0x100)
                    Field (REGS, DWordAcc, NoLock, Preserve) { DEP0, 32 }
                }
            }
        }

        Device (SELF)
        {
            OperationRegion (REGS, PCI_Config, 0, 0x100)
            Field (REGS, DWordAcc, NoLock, Preserve) { SLF0, 32 }
            Method (_ADR, 0) { Return (SLF0) }
        }
    }

    /* Its buses are as a method says, as most firmware has it, even of the first root. */
    Device (\_SB.PCI1)
    {
        Name (_HID, EisaId ("PNP0A08"))
        Name (FRST, 0x20)
        Method (_BBN, 0) { Return (FRST) }
        OperationRegion (OWN, PCI_Config, 0, 0x100)
        Field (OWN, DWordAcc, NoLock, Preserve) { Offset (0x50), OWN1, 32 }
        Device (SLOT)
        {
            Name (_ADR, 0x00030000)
            OperationRegion (REGS, PCI_Config, 0, 0x100)
            Field (REGS, DWordAcc, NoLock, Preserve) { Offset (0x54), SLT1, 32 }
        }
    }

    /* The number of its bus is in the config space that the number leads to. */
    Device (\_SB.PCI2)
    {
        Name (_HID, EisaId ("PNP0A08"))
        OperationRegion (OWN, PCI_Config, 0, 0x100)
        Field (OWN, DWordAcc, NoLock, Preserve) { Offset (0x58), OWN2, 32 }
        Method (_BBN, 0) { Return (OWN2) }
    }

    Method (HOST, 0) { Return (\_SB.PCI0.OWN0) }
    Method (SLOT, 0) { Return (\_SB.PCI0.LPC.LPC0) }
    Method (BELO, 0) { Return (\_SB.PCI0.PORT.CARD.CRD0) }
    Method (METH, 0) { Return (\_SB.PCI0.PORT.CARD.ASK ()) }
    Method (NOWH, 0) { Return (\_SB.PCI0.PORT.NONE.DEEP.DEP0) }
    Method (LOOP, 0) { Return (\_SB.PCI0.SELF.SLF0) }
    Method (BASE, 0) { Return (\_SB.PCI1.OWN1) }
    Method (NEXT, 0) { Return (\_SB.PCI1.SLOT.SLT1) }
    Method (ITS0, 0) { Return (\_SB.PCI2.OWN2) }
    Method (BUS0, 0) { Return (\_SB.PCI2._BBN ()) }
}
