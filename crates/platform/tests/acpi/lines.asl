/* Firmware of AMD's chipsets when it is told of I/O APICs: what leads PCI's lines, in each of the ways that boards have. And what it
   must not do. A test puts the number of a case in the place of 0x7F. */
DefinitionBlock ("", "DSDT", 2, "AXVM", "LINES", 1)
{
    Name (\_S5, Package () { 0, 0, 0, 0 })
    Name (WHAT, 0x7F)
    Name (BASE, 0xB0000000)

    OperationRegion (PIRQ, SystemIO, 0x0C00, 2)
    Field (PIRQ, ByteAcc, NoLock, Preserve) { PIDX, 8, PDAT, 8 }
    IndexField (PIDX, PDAT, ByteAcc, NoLock, Preserve)
    {
        PIRA, 8, PIRB, 8, PIRC, 8, PIRD, 8, PIRE, 8, PIRF, 8, PIRG, 8, PIRH, 8,
        MISC, 8, Offset (0x10), PIRS, 8,
        Offset (0x80), AIRA, 8, AIRB, 8
    }
    OperationRegion (KBDD, SystemIO, 0x64, 1)
    Field (KBDD, ByteAcc, NoLock, Preserve) { PD64, 8 }
    OperationRegion (REST, SystemIO, 0xCF9, 1)
    Field (REST, ByteAcc, NoLock, Preserve) { RST1, 8 }
    OperationRegion (PMIO, SystemIO, 0xCD6, 2)
    Field (PMIO, ByteAcc, NoLock, Preserve) { PMIX, 8, PMDA, 8 }

    Device (\_SB.PCI0)
    {
        Name (_HID, EisaId ("PNP0A08"))
        Name (_CID, EisaId ("PNP0A03"))
        OperationRegion (SMNC, PCI_Config, 0xB4, 12)
        Field (SMNC, DWordAcc, NoLock, Preserve) { DIEX, 32, SMNX, 32, SMND, 32 }
        OperationRegion (GNBC, PCI_Config, 0xF8, 8)
        Field (GNBC, DWordAcc, NoLock, Preserve) { GNBX, 32, GNBD, 32 }
        OperationRegion (CMDR, PCI_Config, 4, 4)
        Field (CMDR, DWordAcc, NoLock, Preserve) { CMDS, 32 }

        Method (BYME, 0, Serialized)
        {
            Local0 = BASE + 0xB8
            OperationRegion (VARM, SystemMemory, Local0, 8)
            Field (VARM, DWordAcc, NoLock, Preserve) { NAPX, 32, NAPD, 32 }
            Local1 = NAPX
            NAPX = 0x14300000
            Local0 = NAPD
            Local0 &= 0xFFFFFFEF
            NAPD = Local0
            NAPX = Local1
        }
        Method (BYCF) { SMNX = 0x14600000 Local0 = SMND SMND = Local0 & 0xFFFFFFEF }
        Method (DIES)
        {
            DIEX = 0
            SMNX = 0x0001C604
            Local0 = SMND & 0xF
            While (Local0 >= 1)
            {
                DIEX = Local0 - 1
                SMNX = 0x14300000
                SMND &= 0xFFFFFFEF
                Local0--
            }
            DIEX = 0
        }
        Method (OLDG) { GNBX = 0 Local0 = GNBD GNBD = Local0 & 0xFFFFFFEF }
    }

    Method (_PIC, 1)
    {
        If (Arg0 == 0) { Return }
        Switch (ToInteger (WHAT))
        {
            Case (1)
            {
                PIRA = 0x1F
                PIRB = 0x1F
                Local1 = PD64
                PIRH = 0x1F
                AIRA = 0x10
                AIRB = 0x11
            }
            Case (2) { \_SB.PCI0.BYME () }
            Case (3) { \_SB.PCI0.BYCF () }
            Case (4) { \_SB.PCI0.DIES () }
            Case (5) { \_SB.PCI0.OLDG () }
            /* From here on nothing may be written. */
            Case (10) { RST1 = 6 PMIX = 0 PMDA = 0xFF }
            Case (11) { MISC = 0 PIRS = 9 PIRA = 0x20 }
            Case (12) { \_SB.PCI0.SMNX = 0x13B102F0 \_SB.PCI0.SMND = 1 \_SB.PCI0.CMDS = 0 }
            Case (14) { \_SB.PCI0.SMNX = 0x14300000 \_SB.PCI0.SMND = 0 }
            Case (15) { \_SB.PCI0.DIEX = 8 \_SB.PCI0.GNBX = 1 \_SB.PCI0.GNBD = 0 }
            Case (13) { If (PD64) { PIRA = 0x1F } PIRB = 0x1F }
        }
    }
    /* Nor by anything but _PIC. */
    Method (_INI)
    {
        If (WHAT == 16) { PIRA = 0x1F \_SB.PCI0.BYCF () }
    }
}
