/* Registers behind an index, and fields that are parts of registers. */
DefinitionBlock ("", "DSDT", 2, "AXVM", "INDEXED", 1)
{
    OperationRegion (PAIR, SystemIO, 0x70, 2)
    Field (PAIR, ByteAcc, NoLock, Preserve) { INDX, 8, DATA, 8 }
    IndexField (INDX, DATA, ByteAcc, NoLock, Preserve)
    {
        Offset (0x10), WHOL, 8, LOW0, 4, HIGH, 4, WORD, 16
    }
    IndexField (WHOL, DATA, ByteAcc, NoLock, Preserve) { DEEP, 8 }
    External (ABSN, FieldUnitObj)
    IndexField (INDX, ABSN, ByteAcc, NoLock, Preserve) { LOST, 8 }

    Name (SIZE, 0x10)
    OperationRegion (REGS, SystemMemory, 0x1000, SIZE)
    Field (REGS, DWordAcc, NoLock, WriteAsOnes) { , 4, ALLO, 8 }
    Field (REGS, DWordAcc, NoLock, WriteAsZeros) { Offset (4), , 4, ALLZ, 8 }
    Field (REGS, WordAcc, NoLock, Preserve) { Offset (8), , 12, OVER, 8 }
    Field (REGS, ByteAcc, NoLock, Preserve) { Offset (0xF), LAST, 8, GONE, 8 }
    OperationRegion (DUMB, SystemMemory, 0x2000, 4)
    Field (DUMB, ByteAcc, NoLock, Preserve) { DUM0, 8, DUM1, 4 }

    Method (WWHL, 1) { WHOL = Arg0 }
    Method (WHGH, 1) { HIGH = Arg0 }
    Method (WWRD, 1) { WORD = Arg0 }
    Method (WDEP, 1) { DEEP = Arg0 }
    Method (WLST, 1) { LOST = Arg0 }
    Method (WONE, 1) { ALLO = Arg0 }
    Method (WZER, 1) { ALLZ = Arg0 }
    Method (WOVR, 1) { OVER = Arg0 }
    Method (WGON, 1) { LAST = Arg0 GONE = Arg0 }
    Method (WDM1, 1) { DUM1 = Arg0 }
    Method (WDBT, 1) { ALLO = DUM0 WHOL = DUM0 If (DUM0) { WHOL = Arg0 } Else { ALLO = Arg0 } ALLZ = Arg0 }
    Method (RWHL) { Return (WHOL) }
    Method (RWRD) { Return (WORD) }
    Method (RDEP) { Return (DEEP) }
}
