//! The board: where things are (QEMU, hw/arm/virt.c), and how it is switched off. Firmware is made for its board; whoever
//! runs on it reads the device tree.

/// The GIC's distributor.
pub const DISTRIBUTOR: usize = 0x0800_0000;
/// The first redistributor.
pub const REDISTRIBUTORS: usize = 0x080a_0000;
/// The first PL011, which both worlds may use.
pub const UART: usize = 0x0900_0000;
/// QEMU's own configuration device.
pub const FW_CFG: usize = 0x0902_0000;
/// The secure world's PL061: its pins 0 and 1 are the machine's power and reset.
const POWER_PINS: usize = 0x090b_0000;
/// The start of RAM. QEMU leaves the device tree here.
pub const RAM: usize = 0x4000_0000;

/// The most CPUs that there may be: four clusters of sixteen.
pub const CPUS: usize = 64;

/// PL061 (Arm DDI 0190): direction, and data, of which the address selects the pins.
const DIRECTION: usize = 0x400;

/// A register of the board.
pub fn read32(address: usize) -> u32 {
    // SAFETY: the callers' addresses are registers of this board, which live beside all Rust objects.
    unsafe { (address as *const u32).read_volatile() }
}

/// A register of the board.
pub fn write32(address: usize, value: u32) {
    // SAFETY: as in `read32`.
    unsafe { (address as *mut u32).write_volatile(value) }
}

/// Switches the machine off.
pub fn power_off() -> ! {
    raise(0)
}

/// Resets the machine.
pub fn reset() -> ! {
    raise(1)
}

fn raise(pin: u32) -> ! {
    let mask = 1 << pin;
    write32(POWER_PINS + DIRECTION, mask);
    write32(POWER_PINS + ((mask as usize) << 2), mask);
    loop {
        crate::cpu::wait_for_event();
    }
}

/// The number of the CPU with this affinity, as it is in MPIDR_EL1 and in PSCI calls.
pub fn cpu_number(affinity: u64) -> Option<usize> {
    let (aff0, rest) = (affinity & 0xff, affinity >> 8);
    let number = rest as usize * 16 + aff0 as usize;
    (aff0 < 16 && number < CPUS && rest < 4).then_some(number)
}
