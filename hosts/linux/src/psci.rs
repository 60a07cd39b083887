//! The calls to its firmware by which an aarch64 guest switches CPUs on and off, as they are left to the core (Arm DEN 0022, 5.1). All others
//! are the kernel's to answer.

use axvm::vcpu::{PowerAnswer, PowerRequest};
use axvm::vm::{Power, Start};

/// A call by its 64-bit convention (Arm DEN 0028, 2.5).
const SMC64: u32 = 1 << 30;
/// CPU_OFF (5.5), CPU_ON (5.6), AFFINITY_INFO (5.7), by their 32-bit convention.
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;

/// Calls in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// The first one's number.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Those that are left to the core.
pub const LEFT: [Calls; 2] = [Calls { first: CPU_OFF, count: 3 }, Calls { first: CPU_ON | SMC64, count: 2 }];

/// What a call returns (5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned(pub i32);

const SUCCESS: Returned = Returned(0);
const NOT_SUPPORTED: Returned = Returned(-1);
const INVALID_PARAMETERS: Returned = Returned(-2);
const DENIED: Returned = Returned(-3);
const ALREADY_ON: Returned = Returned(-4);
const ON_PENDING: Returned = Returned(-5);
const INVALID_ADDRESS: Returned = Returned(-9);

/// What a call asks of the core.
///
/// # Errors
///
/// What it returns: it asks for nothing that there is.
pub fn request(function: u32, arguments: [u64; 3]) -> Result<PowerRequest, Returned> {
    // A 32-bit call passes 32-bit arguments.
    let narrow = function & SMC64 == 0;
    let [first, second, third] = arguments.map(|it| if narrow { it & 0xffff_ffff } else { it });
    match function & !SMC64 {
        CPU_OFF if narrow => Ok(PowerRequest::CpuOff),
        CPU_ON => Ok(PowerRequest::CpuOn { target: first, start: Start { entry: second, argument: third } }),
        // Of a CPU, and not of a cluster.
        AFFINITY_INFO if second == 0 => Ok(PowerRequest::CpuState { target: first }),
        AFFINITY_INFO => Err(INVALID_PARAMETERS),
        _ => Err(NOT_SUPPORTED),
    }
}

/// What a call returns of which the core has answered this.
pub fn returned(answer: PowerAnswer) -> Returned {
    match answer {
        PowerAnswer::Done | PowerAnswer::State(Power::On) => SUCCESS,
        PowerAnswer::State(Power::Off) => Returned(1),
        PowerAnswer::State(Power::Starting) => Returned(2),
        PowerAnswer::IsOn => ALREADY_ON,
        PowerAnswer::IsStarting => ON_PENDING,
        PowerAnswer::NoSuchCpu => INVALID_PARAMETERS,
        PowerAnswer::NotMemory => INVALID_ADDRESS,
        PowerAnswer::OthersOn => DENIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_that_is_left_to_the_core_is_one_that_it_knows() {
        let start = Start { entry: 0x8000_0000, argument: 7 };
        let on = |target| Ok(PowerRequest::CpuOn { target, start });
        let state = |target| Ok(PowerRequest::CpuState { target });
        // By the numbers of DEN 0022's table of functions.
        assert_eq!(request(0x8400_0002, [0; 3]), Ok(PowerRequest::CpuOff));
        assert_eq!(request(0x8400_0003, [1, start.entry, 7]), on(1));
        assert_eq!(request(0xc400_0003, [1, start.entry, 7]), on(1));
        assert_eq!(request(0x8400_0004, [1, 0, 0]), state(1));
        assert_eq!(request(0xc400_0004, [1, 0, 0]), state(1));
        for calls in LEFT {
            for function in calls.first..calls.first + calls.count {
                assert_ne!(request(function, [0; 3]), Err(NOT_SUPPORTED), "{function:#x}");
            }
        }
        // CPU_OFF has no 64-bit form.
        assert_eq!(request(0xc400_0002, [0; 3]), Err(NOT_SUPPORTED));
    }

    #[test]
    fn a_32_bit_call_has_32_bit_arguments() {
        let wide = 0xffff_ffff_0000_0001;
        assert_eq!(request(0x8400_0004, [wide, 0, 0]), Ok(PowerRequest::CpuState { target: 1 }));
        assert_eq!(request(0xc400_0004, [wide, 0, 0]), Ok(PowerRequest::CpuState { target: wide }));
        // Clusters aren't asked about.
        assert_eq!(request(0xc400_0004, [1, 1, 0]), Err(Returned(-2)));
    }

    #[test]
    fn answers_are_those_of_the_manual() {
        let answers = [
            (PowerAnswer::Done, 0),
            (PowerAnswer::State(Power::On), 0),
            (PowerAnswer::State(Power::Off), 1),
            (PowerAnswer::State(Power::Starting), 2),
            (PowerAnswer::NoSuchCpu, -2),
            (PowerAnswer::OthersOn, -3),
            (PowerAnswer::IsOn, -4),
            (PowerAnswer::IsStarting, -5),
            (PowerAnswer::NotMemory, -9),
        ];
        for (answer, code) in answers {
            assert_eq!(returned(answer), Returned(code), "{answer:?}");
        }
    }
}
