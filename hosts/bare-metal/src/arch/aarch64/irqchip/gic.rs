//! The physical GICv3's distributor and redistributors (Arm IHI 0069): what the hypervisor itself does with them.
//!
//! Every interrupt but one is Group 1; which that is and why, is in `groups.rs`. On a CPU of the hypervisor, and of a VM in emulated
//! mode, Group 1 is taken at EL2 with end-of-interrupt split in two (EOImode=1): the hypervisor drops the priority, and the interrupt
//! stays active until the guest deactivates it (list registers with the hardware bit) or the hypervisor does. On a CPU of a VM in
//! passthrough mode Group 1 is the guest's (`direct.rs`).

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use axvm_addr::{CpuId, Hpa, Span};
use axvm_gicv3::resident::{self, VirtualTables};
use axvm_gicv3::{Access, Field, Quirks, Redistributor, install, quirks};
use axvm_platform::model::{Gic, Interrupt, Trigger};
use axvm_vgic::Intid;
use spin::Mutex;

use super::cpu_interface;
use super::error::{FRAME, GicError, MOST_US};
use super::groups;
use super::groups::{CALL_PRIORITY, PRIORITY, call_sgi, single_security};
use super::lpis::Properties;
use crate::arch::aarch64::cpu;
use crate::arch::aarch64::sysreg::dsb;
use crate::log;
use crate::mmio::{Mmio, Row};

/// Distributor registers (IHI 0069, 12.9).
mod gicd {
    pub const CTLR: u64 = 0x0000;
    pub const TYPER: u64 = 0x0004;
    pub const IIDR: u64 = 0x0008;
    pub const IGROUPR: u64 = 0x0080;
    pub const ISENABLER: u64 = 0x0100;
    pub const ICENABLER: u64 = 0x0180;
    pub const ISPENDR: u64 = 0x0200;
    pub const ICPENDR: u64 = 0x0280;
    pub const ISACTIVER: u64 = 0x0300;
    pub const ICACTIVER: u64 = 0x0380;
    pub const IPRIORITYR: u64 = 0x0400;
    pub const ICFGR: u64 = 0x0c00;
    pub const IROUTER: u64 = 0x6000;
    /// Affinity routing of what the software that reads it has (CTLR).
    pub const ARE: u32 = 1 << 4;
    /// Register write pending (CTLR).
    pub const RWP: u32 = 1 << 31;
    /// A single security state (CTLR); reads as zero for non-secure software where there are two.
    pub const DS: u32 = 1 << 6;
}

/// Redistributor registers (IHI 0069, 12.11): the control frame, and at [`gicr::SGI`] the frame of SGIs and PPIs.
pub(super) mod gicr {
    pub const CTLR: u64 = 0x0000;
    pub const TYPER: u64 = 0x0008;
    pub const WAKER: u64 = 0x0014;
    pub const PROPBASER: u64 = 0x0070;
    pub const PENDBASER: u64 = 0x0078;
    pub const SGI: u64 = 0x1_0000;
    pub const RWP: u32 = 1 << 3;
    pub const ENABLE_LPIS: u32 = 1;
    /// LPIs can be disabled again (CTLR).
    pub const CES: u32 = 1 << 1;
    /// Virtual LPIs (TYPER).
    pub const VLPIS: u64 = 1 << 1;
    /// Those of GICv4.1 (TYPER).
    pub const RVPEID: u64 = 1 << 7;
    /// The pending table is all zeros (PENDBASER, write only).
    pub const PTZ: u64 = 1 << 62;
    /// Bits 51:12 of the configuration table's address, in place (PROPBASER).
    pub const PROPERTIES: u64 = 0x000f_ffff_ffff_f000;
    /// Bits 51:16 of the pending table's address, in place (PENDBASER).
    pub const PENDING: u64 = 0x000f_ffff_ffff_0000;
}

/// The GIC: distributor, and each CPU's redistributor.
pub struct PhysicalGic {
    distributor: Mutex<Mmio>,
    /// Registers of which a write changes the bits that are set in it, and no others: nobody waits for the lock.
    bits: Mmio,
    /// Of these, ISENABLER, ICENABLER and CTLR, which are written for a guest at its exit.
    switches: [Row; 2],
    control: Row,
    /// By CPU: the redistributor's frames, and its number (GICR_TYPER.Processor_Number).
    redistributors: Vec<Option<(Mmio, u16, Hpa)>>,
    lines: u32,
    quirks: Quirks,
    /// How redistributors access their tables, as far as is known.
    not_coherent: AtomicBool,
    /// Whether on some CPU LPIs can't be disabled any more.
    pub(super) lpis_stay_enabled: AtomicBool,
}

/// The redistributors in the GIC's regions, with their frames.
///
/// # Safety
///
/// The regions must be mapped as the platform describes them, and driven by nobody else.
unsafe fn redistributors(gic: &Gic) -> Vec<(Mmio, Redistributor, Hpa)> {
    let mut found = Vec::new();
    for region in &gic.redistributors {
        // SAFETY: by the caller's promise.
        let registers = unsafe { Mmio::new(*region) };
        let read = |offset| registers.read64(offset);
        for one in axvm_gicv3::redistributors(region.size(), gic.redistributor_stride, read) {
            let Ok(span) = Span::new(Hpa(region.start().0 + one.offset), one.size) else { continue };
            // SAFETY: inside a region that is ours.
            found.push((unsafe { Mmio::new(span) }, one, span.start()));
        }
    }
    found
}

/// Which CPUs, of these MPIDRs, have no redistributor.
///
/// # Safety
///
/// As for [`PhysicalGic::new`]; registers are only read.
pub unsafe fn without_redistributor(gic: &Gic, cpus: impl Iterator<Item = u64>) -> Vec<bool> {
    // SAFETY: by the caller's promise.
    let all = unsafe { redistributors(gic) };
    cpus.map(|mpidr| !all.iter().any(|(_, it, _)| it.mpidr() == mpidr)).collect()
}

/// Whether every redistributor delivers virtual LPIs as GICv4.0 does.
///
/// # Safety
///
/// As for [`PhysicalGic::new`]; they are only read.
pub unsafe fn redistributors_deliver_virtual_lpis(gic: &Gic) -> bool {
    // SAFETY: by the caller's promise.
    let all = unsafe { redistributors(gic) };
    !all.is_empty() && all.iter().all(|(_, it, _)| it.typer & (gicr::VLPIS | gicr::RVPEID) == gicr::VLPIS)
}

impl PhysicalGic {
    /// Takes over the GIC: everything off, all lines Group 1, and finds the redistributor of each of `cpus` (by MPIDR).
    ///
    /// # Safety
    ///
    /// The regions must be mapped as the platform describes them, and driven by nobody else.
    pub unsafe fn new(gic: &Gic, board: &[String], cpus: &[u64]) -> Result<Self, GicError> {
        // SAFETY: by the caller's promise.
        let distributor = unsafe { Mmio::new(gic.distributor) };
        if distributor.size() < FRAME {
            return Err(GicError::TooSmall(distributor.size()));
        }
        let quirks = quirks(distributor.read32(gicd::IIDR), board);
        let not_coherent = AtomicBool::new(quirks.access(gic.not_coherent) == Access::NonCacheable);
        // Affinity routing, once on, must stay on (IHI 0069, 12.9.4, ARE_NS); firmware may have turned it on.
        distributor.write32(gicd::CTLR, distributor.read32(gicd::CTLR) & gicd::ARE);
        let lines = ((distributor.read32(gicd::TYPER) & 0x1f) + 1) * 32;
        for word in 1..u64::from(lines / 32) {
            distributor.write32(gicd::ICENABLER + word * 4, u32::MAX);
            distributor.write32(gicd::ICPENDR + word * 4, u32::MAX);
            distributor.write32(gicd::ICACTIVER + word * 4, u32::MAX);
            distributor.write32(gicd::IGROUPR + word * 4, u32::MAX);
        }
        for line in 32..u64::from(lines) {
            distributor.write8(gicd::IPRIORITYR + line, PRIORITY);
        }
        wait(|| distributor.read32(gicd::CTLR) & gicd::RWP == 0)?;
        // ARE (bit 4; with a single security state also the non-secure copy in bit 5), then Group 1. In the non-secure view of two
        // security states bit 4 is ARE_NS, bit 1 EnableGrp1A; with one (DS=1) bit 1 is EnableGrp1.
        distributor.write32(gicd::CTLR, gicd::ARE);
        let single = distributor.read32(gicd::CTLR) & gicd::DS != 0;
        groups::set_single_security(single);
        // With one, EnableGrp0 too (bit 0).
        distributor.write32(gicd::CTLR, gicd::ARE | 1 << 1 | u32::from(single));
        wait(|| distributor.read32(gicd::CTLR) & gicd::RWP == 0)?;

        let mut found = Vec::new();
        found.resize(cpus.len(), None);
        // SAFETY: by the caller's promise.
        for (frame, one, base) in unsafe { redistributors(gic) } {
            if let Some(cpu) = cpus.iter().position(|&it| it == one.mpidr())
                && let Some(slot) = found.get_mut(cpu)
            {
                *slot = Some((frame, one.number(), base));
            }
        }
        let this = Self {
            distributor: Mutex::new(distributor),
            bits: distributor,
            switches: [gicd::ICENABLER, gicd::ISENABLER].map(|bank| distributor.row(bank, lines / 32)),
            control: distributor.row(gicd::CTLR, 1),
            redistributors: found,
            lines,
            quirks,
            not_coherent,
            lpis_stay_enabled: AtomicBool::new(false),
        };
        if !single {
            let booted = cpus.iter().position(|&mpidr| mpidr == cpu::own_hardware_id()).unwrap_or_default();
            this.reserve_sgis(CpuId(booted as u16))?;
        }
        Ok(this)
    }

    /// Finds the SGIs that the secure world keeps, by the redistributor of the calling CPU: non-secure software can't enable them
    /// (IHI 0069, 12.11.27: such bits are RAZ/WI).
    fn reserve_sgis(&self, cpu: CpuId) -> Result<(), GicError> {
        let (frame, ..) = self.redistributor(cpu)?;
        frame.write32(gicr::SGI + gicd::ISENABLER, 0xffff);
        let own = frame.read32(gicr::SGI + gicd::ISENABLER) as u16;
        frame.write32(gicr::SGI + gicd::ICENABLER, 0xffff);
        wait(|| frame.read32(gicr::CTLR) & gicr::RWP == 0)?;
        if own == 0 {
            return Err(GicError::NoCall(cpu));
        }
        groups::set_own_sgis(own);
        log::info!("Group 0 is the secure world's: CPUs call each other by SGI {}", call_sgi());
        Ok(())
    }

    /// The INTID past the last line, and the bits that INTIDs have.
    ///
    /// # Safety
    ///
    /// The distributor must be mapped there; it is only read.
    pub unsafe fn size_of(distributor: Span<Hpa>) -> (u16, u32) {
        // SAFETY: by the caller's promise.
        let typer = unsafe { Mmio::new(distributor) }.read32(gicd::TYPER);
        (((typer & 0x1f) as u16 + 1) * 32, (typer >> 19 & 0x1f) + 1)
    }

    /// How many bits an INTID has.
    pub fn id_bits(&self) -> u32 {
        (self.distributor.lock().read32(gicd::TYPER) >> 19 & 0x1f) + 1
    }

    pub(super) fn redistributor(&self, cpu: CpuId) -> Result<&(Mmio, u16, Hpa), GicError> {
        self.redistributors
            .get(usize::from(cpu.0))
            .and_then(Option::as_ref)
            .ok_or(GicError::NoRedistributor(cpu))
    }

    /// The redistributor's number and address: what an ITS knows the CPU by.
    pub fn its_target(&self, cpu: CpuId) -> Result<(u16, Hpa), GicError> {
        self.redistributor(cpu).map(|&(_, number, base)| (number, base))
    }

    /// Brings up the calling CPU's redistributor and CPU interface.
    pub fn init_cpu(&self, cpu: CpuId, lpis: Option<&Properties>) -> Result<(), GicError> {
        let (frame, ..) = self.redistributor(cpu)?;
        // ProcessorSleep (bit 1) off, ChildrenAsleep (bit 2) follows.
        frame.write32(gicr::WAKER, frame.read32(gicr::WAKER) & !2);
        wait(|| frame.read32(gicr::WAKER) & 4 == 0)?;
        self.reset_private(cpu)?;
        if let Some(properties) = lpis {
            self.enable_lpis(cpu, frame, properties)?;
        }
        cpu_interface::enable();
        Ok(())
    }

    /// Brings a CPU's SGIs and PPIs to a known state: disabled but for [`call_sgi`], neither pending nor active, of the hypervisor's
    /// priority.
    pub fn reset_private(&self, cpu: CpuId) -> Result<(), GicError> {
        let (frame, ..) = self.redistributor(cpu)?;
        frame.write32(gicr::SGI + gicd::ICENABLER, u32::MAX);
        wait(|| frame.read32(gicr::CTLR) & gicr::RWP == 0)?;
        frame.write32(gicr::SGI + gicd::ICPENDR, u32::MAX);
        frame.write32(gicr::SGI + gicd::ICACTIVER, u32::MAX);
        let call = 1u32 << call_sgi().0;
        frame.write32(gicr::SGI + gicd::IGROUPR, if single_security() { !call } else { u32::MAX });
        for id in 0..32 {
            frame.write8(gicr::SGI + gicd::IPRIORITYR + id, PRIORITY);
        }
        frame.write8(gicr::SGI + gicd::IPRIORITYR + u64::from(call_sgi().0), CALL_PRIORITY);
        self.let_calls_through(cpu);
        if frame.read32(gicr::SGI + gicd::ISENABLER) & call == 0 {
            return Err(GicError::NoCall(cpu));
        }
        wait(|| frame.read32(gicr::CTLR) & gicr::RWP == 0)
    }

    /// Lets [`call_sgi`] through on a CPU where [`PhysicalGic::keep_calls_out`] disabled it.
    pub fn let_calls_through(&self, cpu: CpuId) {
        if let Ok((frame, ..)) = self.redistributor(cpu) {
            frame.write32(gicr::SGI + gicd::ISENABLER, 1 << call_sgi().0);
        }
    }

    /// Disables [`call_sgi`] on a CPU, and forgets one that is pending.
    pub fn keep_calls_out(&self, cpu: CpuId) -> Result<(), GicError> {
        let (frame, ..) = self.redistributor(cpu)?;
        frame.write32(gicr::SGI + gicd::ICENABLER, 1 << call_sgi().0);
        wait(|| frame.read32(gicr::CTLR) & gicr::RWP == 0)?;
        frame.write32(gicr::SGI + gicd::ICPENDR, 1 << call_sgi().0);
        Ok(())
    }

    /// How redistributors access their tables.
    fn access(&self) -> Access {
        match self.not_coherent.load(Ordering::Relaxed) {
            true => Access::NonCacheable,
            false => Access::Coherent,
        }
    }

    /// Gives a redistributor a table, and remembers if it isn't coherent.
    pub(super) fn install(
        &self,
        frame: &Mmio,
        offset: u64,
        value: u64,
        must: u64,
    ) -> Result<Access, GicError> {
        let access = install(frame, offset, Field::Redistributor, self.access(), value, must)?;
        if access == Access::NonCacheable {
            self.not_coherent.store(true, Ordering::Relaxed);
        }
        Ok(access)
    }

    /// On this CPU: virtual LPIs that are pending in `pending` are signalled to what runs there, and what comes is. A vCPU that has
    /// left its CPU for another has to be made absent there before.
    pub fn make_resident(&self, cpu: CpuId, properties: &Properties, pending: Hpa) -> Result<(), GicError> {
        let (frame, ..) = self.redistributor(cpu)?;
        if frame.read64(gicr::TYPER) & gicr::VLPIS == 0 {
            return Err(GicError::NoVirtualProcessor);
        }
        if resident::is_resident(frame) {
            return Ok(());
        }
        self.reaches(properties.at(), properties.bytes())?;
        self.reaches(pending, (1 << properties.id_bits()) / 8)?;
        wait(|| resident::is_settled(frame))?;
        let tables = VirtualTables { properties: properties.at(), id_bits: properties.id_bits(), pending };
        if resident::make_resident(frame, &tables, self.access())? == Access::NonCacheable {
            self.not_coherent.store(true, Ordering::Relaxed);
        }
        dsb!("sy");
        Ok(())
    }

    /// Whether the GIC reaches all of a table.
    ///
    /// # Errors
    ///
    /// [`GicError::OutOfReach`].
    pub(super) fn reaches(&self, table: Hpa, bytes: usize) -> Result<(), GicError> {
        match self.quirks.reaches(table, bytes as u64) {
            true => Ok(()),
            false => Err(GicError::OutOfReach { table, bits: self.quirks.address_bits }),
        }
    }

    /// The end of [`PhysicalGic::make_resident`]: what is pending is in its table. Answers whether anything was at that moment: the
    /// hardware says it only then.
    pub fn make_absent(&self, cpu: CpuId) -> Result<bool, GicError> {
        let (frame, ..) = self.redistributor(cpu)?;
        resident::make_absent(frame);
        wait(|| resident::is_settled(frame))?;
        Ok(resident::has_pending(frame))
    }

    /// Routes a line to a CPU, sets how it triggers, and enables it. Answers whether the distributor has such a line, and has enabled
    /// it: where there is a secure world, that may keep it.
    pub fn enable_line(&self, interrupt: Interrupt, mpidr: u64) -> bool {
        let line = interrupt.irq.into();
        self.configure_line(line, interrupt.trigger == Trigger::Edge, PRIORITY, Some(mpidr), true);
        let id = u64::from(line.0);
        (32..u64::from(self.lines)).contains(&id)
            && self.distributor.lock().read32(gicd::ISENABLER + id / 32 * 4) >> (id % 32) & 1 != 0
    }

    /// How many SPIs are enabled.
    pub fn enabled_lines(&self) -> u32 {
        let distributor = self.distributor.lock();
        let words =
            (1..u64::from(self.lines / 32)).map(|word| distributor.read32(gicd::ISENABLER + word * 4));
        words.map(u32::count_ones).sum()
    }

    /// Turns an SPI off.
    pub fn disable_line(&self, line: Intid, edge: bool) {
        self.configure_line(line, edge, PRIORITY, None, false);
    }

    /// Sets trigger, priority, target and enable of an SPI. Numbers that the distributor hasn't are ignored.
    pub fn configure_line(&self, line: Intid, edge: bool, priority: u8, mpidr: Option<u64>, enable: bool) {
        let id = u64::from(line.0);
        if !(32..u64::from(self.lines)).contains(&id) {
            return;
        }
        let distributor = self.distributor.lock();
        let (word, bit) = (id / 32 * 4, 1u32 << (id % 32));
        distributor.write32(gicd::ICENABLER + word, bit);
        let _ = wait(|| distributor.read32(gicd::CTLR) & gicd::RWP == 0);
        let (config, shift) = (gicd::ICFGR + id / 16 * 4, id % 16 * 2);
        let value = distributor.read32(config) & !(3 << shift);
        distributor.write32(config, value | u32::from(edge) << (shift + 1));
        distributor.write8(gicd::IPRIORITYR + id, priority);
        if let Some(mpidr) = mpidr {
            distributor.write64(gicd::IROUTER + id * 8, mpidr);
        }
        if enable {
            distributor.write32(gicd::ISENABLER + word, bit);
        }
    }

    /// Enables or disables an SPI. Once it has returned from disabling, no CPU is signalled any more.
    #[inline(always)]
    pub fn set_enabled(&self, line: Intid, enabled: bool) {
        if line.0 < 32 {
            return;
        }
        let [off, on] = self.switches;
        let bit = 1 << (line.0 % 32);
        if enabled {
            return on.write(line.0 / 32, bit);
        }
        off.write(line.0 / 32, bit);
        // RWP covers writes to ICENABLER (IHI 0069, GICD_CTLR).
        if self.control.read(0) & gicd::RWP != 0 {
            let _ = wait(|| self.control.read(0) & gicd::RWP == 0);
        }
    }

    /// Sets or clears the pending state of an SPI.
    pub fn set_pending(&self, line: Intid, pending: bool) {
        self.write_bit(line, if pending { gicd::ISPENDR } else { gicd::ICPENDR });
    }

    /// Sets or clears the active state of an SPI.
    pub fn set_active(&self, line: Intid, active: bool) {
        self.write_bit(line, if active { gicd::ISACTIVER } else { gicd::ICACTIVER });
    }

    fn write_bit(&self, line: Intid, register: u64) {
        let id = u64::from(line.0);
        if (32..u64::from(self.lines)).contains(&id) {
            self.bits.write32(register + id / 32 * 4, 1 << (id % 32));
        }
    }

    /// Whether an SPI is pending, and whether it is active.
    pub fn line_state(&self, line: Intid) -> (bool, bool) {
        let id = u64::from(line.0);
        if !(32..u64::from(self.lines)).contains(&id) {
            return (false, false);
        }
        let distributor = self.distributor.lock();
        let bit = |register| distributor.read32(register + id / 32 * 4) >> (id % 32) & 1 != 0;
        (bit(gicd::ISPENDR), bit(gicd::ISACTIVER))
    }

    /// Enables or disables an SGI or PPI of a CPU.
    pub fn enable_private(&self, cpu: CpuId, line: Intid, enable: bool) {
        self.write_private(cpu, line, if enable { gicd::ISENABLER } else { gicd::ICENABLER });
    }

    /// Sets the priority of an SGI or PPI of a CPU.
    pub fn set_private_priority(&self, cpu: CpuId, line: Intid, priority: u8) {
        if let Ok((frame, ..)) = self.redistributor(cpu)
            && line.0 < 32
            && line != call_sgi()
        {
            frame.write8(gicr::SGI + gicd::IPRIORITYR + u64::from(line.0), priority);
        }
    }

    /// Sets or clears the pending state of a CPU's SGI or PPI.
    pub fn set_private_pending(&self, cpu: CpuId, line: Intid, pending: bool) {
        self.write_private(cpu, line, if pending { gicd::ISPENDR } else { gicd::ICPENDR });
    }

    /// Sets or clears the active state of a CPU's SGI or PPI.
    pub fn set_private_active(&self, cpu: CpuId, line: Intid, active: bool) {
        self.write_private(cpu, line, if active { gicd::ISACTIVER } else { gicd::ICACTIVER });
    }

    /// Whether an SGI or PPI of a CPU is pending, and whether it is active.
    pub fn private_state(&self, cpu: CpuId, line: Intid) -> (bool, bool) {
        let Ok((frame, ..)) = self.redistributor(cpu) else { return (false, false) };
        let bit = |register| frame.read32(gicr::SGI + register) >> (line.0 & 31) & 1 != 0;
        (bit(gicd::ISPENDR), bit(gicd::ISACTIVER))
    }

    fn write_private(&self, cpu: CpuId, line: Intid, register: u64) {
        if let Ok((frame, ..)) = self.redistributor(cpu)
            && line.0 < 32
            && line != call_sgi()
        {
            frame.write32(gicr::SGI + register, 1 << line.0);
        }
    }
}

pub(super) fn wait(done: impl Fn() -> bool) -> Result<(), GicError> {
    if cpu::wait_us(MOST_US, done) { Ok(()) } else { Err(GicError::Stuck) }
}

impl axvm_gicv3::Registers for Mmio {
    fn read64(&self, offset: u64) -> u64 {
        Mmio::read64(self, offset)
    }

    fn write64(&self, offset: u64, value: u64) {
        Mmio::write64(self, offset, value);
    }
}
