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

    Method (HOST, 0) { Return (\_SB.PCI0.OWN0) }
    Method (SLOT, 0) { Return (\_SB.PCI0.LPC.LPC0) }
    Method (BELO, 0) { Return (\_SB.PCI0.PORT.CARD.CRD0) }
    Method (METH, 0) { Return (\_SB.PCI0.PORT.CARD.ASK ()) }
    Method (NOWH, 0) { Return (\_SB.PCI0.PORT.NONE.DEEP.DEP0) }
    Method (LOOP, 0) { Return (\_SB.PCI0.SELF.SLF0) }
}
