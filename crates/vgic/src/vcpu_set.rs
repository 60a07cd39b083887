//! A set of vCPUs.

use axvm_addr::VcpuId;

use crate::config::VCPUS_MAX;

/// A set of vCPUs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VcpuSet {
    words: [u64; VCPUS_MAX / 64],
    /// There are some.
    any: bool,
}

impl VcpuSet {
    pub(crate) fn insert(&mut self, vcpu: VcpuId) {
        if let Some(word) = self.words.get_mut(usize::from(vcpu.0) / 64) {
            *word |= 1 << (vcpu.0 % 64);
            self.any = true;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.any
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = VcpuId> + '_ {
        (0u16..).zip(&self.words).flat_map(|(number, word)| {
            let mut left = *word;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(VcpuId(number * 64 + bit as u16))
            })
        })
    }
}
