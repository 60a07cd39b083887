/* A host bridge whose window begins where a register of its own function says, as on many boards: PCIEXBAR of Intel's Q35. */
DefinitionBlock ("", "DSDT", 2, "AXVM", "WINDOWS", 1)
{
    Name (\_S5, Package () { 0, 0, 0, 0 })
    Device (\_SB.PCI0)
    {
        Name (_HID, EisaId ("PNP0A08"))
        Name (_CID, EisaId ("PNP0A03"))
        Device (MCHC)
        {
            Name (_ADR, Zero)
            OperationRegion (HBUS, PCI_Config, Zero, 0x0100)
            Field (HBUS, DWordAcc, NoLock, Preserve) { Offset (0x60), , 28, PXBR, 4 }
        }
        Method (_CRS, 0, Serialized)
        {
            Name (BUF0, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0xFF, 0, 0x100)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                    0, 0, 0xFEAFFFFF, 0, 0xFEB00000, , , WIN)
            })
            CreateDWordField (BUF0, WIN._MIN, MIN0)
            CreateDWordField (BUF0, WIN._LEN, LEN0)
            Add (ShiftLeft (^MCHC.PXBR, 28), 0x10000000, MIN0)
            Subtract (0xFEB00000, MIN0, LEN0)
            Return (BUF0)
        }
    }
}
