//! Descriptors of the hypervisor's own tables that are written by hand (Arm ARM, D8.3).

/// Table descriptor, valid; at the last level the same bits are a page's.
pub const TABLE: u64 = 3;
/// Block descriptor, valid.
const BLOCK: u64 = 1;
/// Attribute index 1, inner shareable, accessed.
pub const EARLY_MEMORY: u64 = 1 << 2 | 3 << 8 | 1 << 10;
/// Attribute index 0, outer shareable, accessed, never executed.
pub const EARLY_DEVICE: u64 = 2 << 8 | 1 << 10 | 1 << 54;
/// Normal memory that isn't executed, as one block.
pub const MEMORY_BLOCK: u64 = BLOCK | EARLY_MEMORY | 1 << 54;
