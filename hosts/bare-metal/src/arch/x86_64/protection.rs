//! What of this architecture's protections a test image leaves out (`crate::protection`). In any other image each of these gives back
//! what it was given, and is no code.

use axvm_addr::Irq;
#[cfg(feature = "protection-off")]
use {
    super::irqchip::Irqchip, super::own_map, axvm_addr::Address, axvm_addr::Hpa, axvm_addr::MsiSource,
    core::sync::atomic::AtomicU16, core::sync::atomic::Ordering,
};

/// Where the bundle asks for it: a line that the hypervisor's CPU injects at a vCPU.
pub const INJECTED: [Irq; 1] = [Irq(4)];

/// Takes a vector that nobody gives back.
#[cfg(feature = "protection-off")]
pub fn leak_message_number(irqchip: &Irqchip) {
    irqchip.leak_vector();
}

/// Routes a message of a device that isn't there, one device after another.
#[cfg(feature = "protection-off")]
pub fn leak_message(irqchip: &Irqchip) {
    static NEXT: AtomicU16 = AtomicU16::new(0xf000);
    irqchip.leak_message(MsiSource::new(0, NEXT.fetch_add(1, Ordering::Relaxed).into()));
}

/// Whether memory that tables lie in, and code, are mapped as what drives hardware by them expects.
///
/// # Errors
///
/// What doesn't hold.
#[cfg(feature = "protection-off")]
pub fn check_memory() -> Result<(), &'static str> {
    use axvm_paging::MemoryType;
    let table = crate::memory::allocate(4096, 4096).ok_or("there is a table")?;
    let mapped = own_map::query(table).ok_or("tables are mapped")?;
    // SAFETY: nobody has used it.
    unsafe { crate::memory::free(table, 4096, 4096) };
    if mapped.memory != MemoryType::Normal || mapped.execute || !mapped.write {
        return Err("tables are write-back memory, and nothing to execute");
    }
    let code = own_map::query(Hpa(super::image_start()).page()).ok_or("code is mapped")?;
    if code.write || !code.execute {
        return Err("code is executed, and not written");
    }
    Ok(())
}
