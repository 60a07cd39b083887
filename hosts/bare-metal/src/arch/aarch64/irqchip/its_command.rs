//! The commands of a physical ITS: four doublewords each (Arm IHI 0069, 5.3). A virtual processor (vPE) has its CPU's number, as a
//! collection has.

use axvm_addr::{CpuId, Hpa};
use axvm_vgic::{Intid, ItsDeviceId, ItsEventId};

/// A command.
pub type Command = [u64; 4];

const VALID: u64 = 1 << 63;

fn on_device(opcode: u64, id: ItsDeviceId) -> u64 {
    opcode | u64::from(id.0) << 32
}

fn on_event(opcode: u64, id: ItsDeviceId, event: ItsEventId) -> Command {
    [on_device(opcode, id), event.0.into(), 0, 0]
}

fn vpe(cpu: CpuId) -> u64 {
    u64::from(cpu.0) << 32
}

/// MAPD: a device with events of `bits` bits has its translation table at `table`.
pub fn mapd(id: ItsDeviceId, bits: u32, table: Hpa) -> Command {
    [on_device(0x08, id), u64::from(bits.saturating_sub(1)), VALID | table.0, 0]
}

/// MAPD with V=0.
pub fn unmapd(id: ItsDeviceId) -> Command {
    [on_device(0x08, id), 0, 0, 0]
}

/// MAPC.
pub fn mapc(cpu: CpuId, target: u64) -> Command {
    [0x09, 0, VALID | target | u64::from(cpu.0), 0]
}

/// MAPTI.
pub fn mapti(id: ItsDeviceId, event: ItsEventId, cpu: CpuId, lpi: Intid) -> Command {
    [on_device(0x0a, id), u64::from(event.0) | u64::from(lpi.0) << 32, cpu.0.into(), 0]
}

/// MOVI.
pub fn movi(id: ItsDeviceId, event: ItsEventId, cpu: CpuId) -> Command {
    [on_device(0x01, id), event.0.into(), cpu.0.into(), 0]
}

/// DISCARD.
pub fn discard(id: ItsDeviceId, event: ItsEventId) -> Command {
    on_event(0x0f, id, event)
}

/// CLEAR.
pub fn clear(id: ItsDeviceId, event: ItsEventId) -> Command {
    on_event(0x04, id, event)
}

/// INT.
pub fn int(id: ItsDeviceId, event: ItsEventId) -> Command {
    on_event(0x03, id, event)
}

/// INV.
pub fn inv(id: ItsDeviceId, event: ItsEventId) -> Command {
    on_event(0x0c, id, event)
}

/// INVALL.
pub fn invall(cpu: CpuId) -> Command {
    [0x0d, 0, cpu.0.into(), 0]
}

/// SYNC.
pub fn sync(target: u64) -> Command {
    [0x05, 0, target, 0]
}

/// VMAPP, as GICv4.0 has it: a pending table (64 KiB aligned) for INTIDs of so many bits, or none.
pub fn vmapp(cpu: CpuId, target: u64, table: Option<(Hpa, u32)>) -> Command {
    match table {
        Some((pending, id_bits)) => {
            [0x29, vpe(cpu), VALID | target, pending.0 | u64::from(id_bits.saturating_sub(1))]
        }
        None => [0x29, vpe(cpu), 0, 0],
    }
}

/// VMAPTI.
pub fn vmapti(id: ItsDeviceId, event: ItsEventId, cpu: CpuId, lpi: Intid, doorbell: Intid) -> Command {
    [on_device(0x2a, id), vpe(cpu) | u64::from(event.0), u64::from(doorbell.0) << 32 | u64::from(lpi.0), 0]
}

/// VMOVI, with another doorbell (D=1).
pub fn vmovi(id: ItsDeviceId, event: ItsEventId, cpu: CpuId, doorbell: Intid) -> Command {
    [on_device(0x21, id), vpe(cpu) | u64::from(event.0), u64::from(doorbell.0) << 32 | 1, 0]
}

/// VINVALL.
pub fn vinvall(cpu: CpuId) -> Command {
    [0x2d, vpe(cpu), 0, 0]
}

/// VSYNC.
pub fn vsync(cpu: CpuId) -> Command {
    [0x25, vpe(cpu), 0, 0]
}
