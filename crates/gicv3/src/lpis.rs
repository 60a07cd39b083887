//! Where in a VM's block of LPIs a device's lie.

/// The first of `count` neighbours, a power of two, that nobody has, at a multiple of `count`.
///
/// In a block of `n` times the most that any of `n` devices takes there is always room for a device that has none: each other one
/// has something of one such part at most.
pub fn place(used: &[bool], count: usize) -> Option<usize> {
    used.chunks_exact(count.max(1)).position(|run| !run.contains(&true)).map(|at| at * count)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_between_others_do_not_add_up() {
        // First come, first served, wherever there is room, would have left 2 and 4 free, and none of 8.
        let mut used = vec![false; 16];
        used[0..2].fill(true);
        assert_eq!(place(&used, 8), Some(8));
        assert_eq!(place(&used, 4), Some(4));
        assert_eq!(place(&used, 2), Some(2));
        used[8] = true;
        assert_eq!(place(&used, 8), None);
        assert_eq!(place(&[], 1), None);
    }

    proptest! {
        /// A guest that maps and unmaps its devices in any sizes always finds what its plan promises.
        #[test]
        fn there_is_always_room_for_a_device_that_has_none(
            bits in 1u32..7,
            devices in 1usize..6,
            steps in proptest::collection::vec((0usize..6, 0u32..7), 1..200),
        ) {
            let mut used = vec![false; devices << bits];
            let mut held = vec![None; devices];
            for (device, size) in steps {
                let (device, size) = (device % devices, size.min(bits));
                if let Some((first, count)) = held[device].take() {
                    used[first..first + count].fill(false);
                }
                let count = 1 << size;
                let first = place(&used, count);
                prop_assert!(first.is_some());
                let first = first.unwrap_or_default();
                prop_assert!(used[first..first + count].iter().all(|it| !it));
                used[first..first + count].fill(true);
                held[device] = Some((first, count));
            }
        }
    }
}
