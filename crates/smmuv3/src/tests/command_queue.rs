//! The command queue.

use super::*;

#[test]
fn a_refused_command_is_named_and_the_queue_works_again() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    fake.0.borrow_mut().misbehaviour.refuses = Some((commands::TLBI_S12_VMALL, 1, 1));
    let refused = CommandError { opcode: 0x28, reason: Reason::Illegal };
    assert_eq!(smmu.invalidate_vmid(1), Err(Error::Command(refused)));
    assert_eq!(smmu.invalidate_vmid(1), Ok(()));
    // One of several: the others are done all the same.
    fake.0.borrow_mut().misbehaviour.refuses = Some((commands::TLBI_S2_IPA, 1, 2));
    fake.take_log();
    let span = Span::new(Gpa(0), 4 * PAGE).unwrap();
    let refused = CommandError { opcode: 0x2a, reason: Reason::Abort };
    assert_eq!(smmu.invalidate_range(1, span), Err(Error::Command(refused)));
    let done = opcodes(&fake.take_log());
    assert_eq!(done.iter().filter(|opcode| **opcode == commands::TLBI_S2_IPA).count(), 3);
    assert_eq!(smmu.take_gerror(), GlobalErrors::empty(), "acknowledged by the recovery");
}

#[test]
fn a_queue_that_always_refuses_is_given_up() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    fake.0.borrow_mut().misbehaviour.refuses = Some((commands::SYNC, u32::MAX, 2));
    let refused = CommandError { opcode: 0x46, reason: Reason::Abort };
    assert_eq!(smmu.sync(), Err(Error::Command(refused)));
}

#[test]
fn an_smmu_whose_commands_time_out_is_waited_for_by_the_clock_and_then_asked_briefly() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake);
    fake.0.borrow_mut().misbehaviour.deaf = true;
    let time = |smmu: &mut Smmu<&Fake, &Fake>| {
        let start = fake.clock();
        assert!(matches!(smmu.block(StreamId(8)), Err(Error::Timeout(_))));
        fake.clock() - start
    };
    assert!((1_000_000..1_001_000).contains(&time(&mut smmu)));
    for _ in 0..200 {
        assert!(time(&mut smmu) < 4_000, "it hasn't answered since");
    }
    fake.0.borrow_mut().misbehaviour.deaf = false;
    // It reads on by itself.
    Registers::write32(&fake, cmdq::PROD_OFFSET, fake.get(cmdq::PROD_OFFSET));
    smmu.block(StreamId(8)).unwrap();
    fake.0.borrow_mut().misbehaviour.deaf = true;
    assert!(time(&mut smmu) >= 1_000_000, "it has");
}
