//! Power management (PM 3.2). Offsets are from the capability's start.

/// Power management control and status, 16 bits (PM 3.2.4).
pub const CONTROL: u16 = 4;
/// In [`CONTROL`]: the power state, 0 for D0 to 3 for D3hot.
pub const STATE: u16 = 0b11;
/// [`STATE`] of D3hot.
pub const D3HOT: u16 = 3;
/// In [`CONTROL`]: going from D3hot to D0 keeps the function's state.
pub const NO_SOFT_RESET: u16 = 1 << 3;
/// In [`CONTROL`]: may signal power management events.
pub const PME_ENABLE: u16 = 1 << 8;
/// In [`CONTROL`]: has signalled one; a write of one clears it.
pub const PME_STATUS: u16 = 1 << 15;
/// The capability's size.
pub const SIZE: u16 = 8;
