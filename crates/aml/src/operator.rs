//! Arithmetic (ACPI 6.5, 19.6).

use crate::error::Error;

/// What an operator with one operand makes of a number.
pub(crate) fn one(opcode: u16, value: u64) -> Result<u64, Error> {
    let nibbles = |from: u64, to: u64| {
        (0..16u32).fold((value, 0u64, Some(1u64)), |(rest, sum, place), _| {
            let digit = rest % from;
            let sum = place.map_or(sum, |place| sum.wrapping_add(digit.wrapping_mul(place)));
            (rest / from, sum, place.and_then(|place| place.checked_mul(to)))
        })
    };
    match opcode {
        0x80 => Ok(!value),
        // From 1 on; 0: there is none.
        0x81 => Ok((u64::BITS - value.leading_zeros()).into()),
        0x82 => Ok(if value == 0 { 0 } else { u64::from(value.trailing_zeros()) + 1 }),
        0x5b28 => Ok(nibbles(16, 10).1),
        0x5b29 => Ok(nibbles(10, 16).1),
        other => Err(Error::Opcode(other)),
    }
}

/// What one with two makes of them.
pub(crate) fn two(opcode: u16, a: u64, b: u64, mask: u64) -> Result<u64, Error> {
    let shift = u32::try_from(b).unwrap_or(u32::MAX);
    Ok(match opcode {
        0x72 => a.wrapping_add(b),
        0x74 => a.wrapping_sub(b),
        0x77 => a.wrapping_mul(b),
        0x79 => a.checked_shl(shift).unwrap_or(0),
        0x7a => (a & mask).checked_shr(shift).unwrap_or(0),
        0x7b => a & b,
        0x7c => !(a & b),
        0x7d => a | b,
        0x7e => !(a | b),
        0x7f => a ^ b,
        0x85 => a.checked_rem(b).ok_or(Error::Division)?,
        other => return Err(Error::Opcode(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_do_what_the_specification_says() {
        let two = |opcode, a, b| two(opcode, a, b, u64::MAX);
        assert_eq!(two(0x72, u64::MAX, 2), Ok(1));
        assert_eq!(two(0x74, 1, 2), Ok(u64::MAX));
        assert_eq!(two(0x79, 1, 64), Ok(0));
        assert_eq!(two(0x79, 1, 1 << 40), Ok(0));
        assert_eq!(two(0x7a, 0x80, 7), Ok(1));
        assert_eq!((two(0x7c, 1, 3), two(0x7e, 1, 2)), (Ok(!1), Ok(!3)));
        assert_eq!((two(0x85, 7, 4), two(0x85, 7, 0)), (Ok(3), Err(Error::Division)));
        assert_eq!((one(0x81, 0x90), one(0x82, 0x90)), (Ok(8), Ok(5)));
        assert_eq!((one(0x81, 0), one(0x82, 0)), (Ok(0), Ok(0)));
        assert_eq!((one(0x5b28, 0x1234), one(0x5b29, 1234)), (Ok(1234), Ok(0x1234)));
        assert_eq!(one(0x5b28, 0x9999_9999_9999_9999), Ok(9_999_999_999_999_999));
    }
}
