//! Commands of the guest's to its ITS.

use axvm_vgic::CommandError;
use axvm_vgic::spec::its_command::Command;
use axvm_vgic::{ItsDeviceId, ItsEventId};

use super::{Bench, PRIORITY, TABLES, config};

pub const DEVICE: ItsDeviceId = ItsDeviceId(0x10);
pub const ITT: u64 = TABLES + 0x2000;

pub fn event(number: u32) -> ItsEventId {
    ItsEventId(number)
}

pub fn mapd(device: ItsDeviceId, bits: u32) -> Command {
    Command::Mapd { device, bits, table: ITT, valid: true }
}

pub fn mapc(collection: u16, target: u64) -> Command {
    Command::Mapc { collection, target, valid: true }
}

pub fn mapti(number: u32, lpi: u32, collection: u16) -> Command {
    Command::Mapti { device: DEVICE, event: event(number), lpi, collection }
}

pub fn run(bench: &Bench, commands: &[Command]) {
    for command in commands {
        bench.command(command.encode());
    }
}

/// Two vCPUs with a collection each, and one device with two enabled LPIs on vCPU 0.
pub fn bench() -> Bench {
    let bench = Bench::started(config(2, vec![], 4));
    bench.start_its();
    bench.set_property(8192, PRIORITY | 1);
    bench.set_property(8193, PRIORITY | 1);
    run(&bench, &[mapc(0, 0), mapc(1, 1), mapd(DEVICE, 5), mapti(0, 8192, 0), mapti(1, 8193, 0)]);
    assert_eq!(bench.vgic.statistics().last_command_error, None);
    bench
}

pub fn refused(bench: &Bench, command: Command, why: CommandError) {
    let before = bench.errors();
    run(bench, &[command]);
    assert_eq!(bench.errors(), before + 1, "{command:?}");
    assert_eq!(bench.vgic.statistics().last_command_error, Some(why), "{command:?}");
}
