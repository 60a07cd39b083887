//! The first step: all transactions abort.

use axvm_iommu::{MOST_US, Registers, wait_for};

use crate::error::{Error, Wait};
use crate::spec::registers::REGISTER_BYTES;
use crate::spec::registers::{cr0, gbpa};

/// Makes every transaction abort, whatever state the SMMU is in: reset leaves it open (GBPA.ABORT may be 0), and
/// firmware may have left it translating for streams of its own. To be called before anything that could make a
/// device master the bus, and before [`Smmu::new`](crate::Smmu::new).
///
/// The order matters (6.3.14, 6.3.9): GBPA governs as soon as SMMUEN is 0, so it aborts before that. SMMUEN's
/// acknowledgement says that transactions under the old configuration have finished.
///
/// # Errors
///
/// [`Error::RegistersTooSmall`]: it is no SMMU as described. [`Error::Timeout`]: the SMMU doesn't answer, and may be open. If GBPA can't be changed, SMMUEN is left as it
/// was, as turning it off would open what it holds closed.
pub fn close(registers: &impl Registers) -> Result<(), Error> {
    if registers.size() < REGISTER_BYTES {
        return Err(Error::RegistersTooSmall { bytes: registers.size() });
    }
    let settled = || {
        let value = registers.read32(gbpa::OFFSET);
        (!gbpa::UPDATE.is_set(value.into())).then_some(value)
    };
    let value = wait_for(registers, MOST_US, Wait::Gbpa, settled)?;
    if !gbpa::ABORT.is_set(value.into()) {
        registers.write32(gbpa::OFFSET, value | (gbpa::ABORT.mask() | gbpa::UPDATE.mask()) as u32);
        // A value that doesn't stick is no answer either.
        let aborts = || settled().filter(|value| gbpa::ABORT.is_set((*value).into()));
        wait_for(registers, MOST_US, Wait::Gbpa, aborts)?;
    }
    set_cr0(registers, 0)
}

/// Sets what is enabled and waits until it has taken effect.
pub(crate) fn set_cr0(registers: &impl Registers, enable: u64) -> Result<(), Error> {
    const ACKNOWLEDGED: u64 = cr0::SMMUEN.mask()
        | cr0::PRIQEN.mask()
        | cr0::EVENTQEN.mask()
        | cr0::CMDQEN.mask()
        | cr0::ATSCHK.mask();
    registers.write32(cr0::OFFSET, enable as u32);
    let followed = || {
        (u64::from(registers.read32(cr0::ACK_OFFSET)) & ACKNOWLEDGED == enable & ACKNOWLEDGED).then_some(())
    };
    Ok(wait_for(registers, MOST_US, Wait::Cr0, followed)?)
}
