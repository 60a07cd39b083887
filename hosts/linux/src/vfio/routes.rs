//! What KVM makes of a VM's events: messages and lines, by numbers. KVM has one table of them a VM, which is given whole.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use axvm::msi::MsiMessage;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::signals::Guest;

/// The first number of a message: above all lines (on aarch64 there are fewer than 988).
const FIRST: u32 = 1024;
/// One above the last (Linux, include/linux/kvm_host.h: `KVM_MAX_IRQ_ROUTES`).
const END: u32 = 4096;

/// KVM's interrupt controller to which lines lead, where it has one.
const LINES: u32 = 0;

/// Who has the lines where KVM hasn't.
pub trait OwnLines: Send + Sync {
    /// Has a line raised when `event` is counted, and `unmask` counted when that has ended.
    ///
    /// # Errors
    ///
    /// There is no such line.
    fn connect(&self, event: &EventFd, unmask: &EventFd, line: u32) -> io::Result<()>;

    /// Has it raised by this one no more.
    fn disconnect(&self, event: &EventFd);
}

/// Who is given the table.
trait Table {
    fn give(&self, entries: &[kvm_irq_routing_entry]) -> io::Result<()>;
}

impl Table for Arc<VmFd> {
    fn give(&self, entries: &[kvm_irq_routing_entry]) -> io::Result<()> {
        let table =
            KvmIrqRouting::from_entries(entries).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.set_gsi_routing(&table).map_err(errno)
    }
}

fn errno(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// What a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// Nothing yet.
    Nothing,
    /// A message of a device with this id.
    Message(u32, MsiMessage),
    /// A line.
    Line,
}

/// A VM's table.
pub struct Routes {
    vm: Arc<VmFd>,
    means: Mutex<BTreeMap<u32, Means>>,
    lines: OnceLock<Weak<dyn OwnLines>>,
}

impl Routes {
    /// Without messages.
    pub fn new(vm: Arc<VmFd>) -> Arc<Self> {
        Arc::new(Self { vm, means: Mutex::default(), lines: OnceLock::new() })
    }

    /// Whose the lines are, if they aren't KVM's. Once, before any line is connected.
    pub fn lines_by(&self, lines: &Arc<dyn OwnLines>) {
        let _ = self.lines.set(Arc::downgrade(lines));
    }

    /// Has the ends of interrupts told that are as this message is, which a line sends; or of none of this line's.
    ///
    /// # Errors
    ///
    /// KVM's: it is as before.
    pub fn announce(&self, line: u32, message: Option<MsiMessage>) -> io::Result<()> {
        self.change(line, message.map_or(Means::Nothing, |message| Means::Message(0, message)))
    }

    fn change(&self, number: u32, to: Means) -> io::Result<()> {
        let mut means = crate::lock(&self.means);
        let before = means.insert(number, to);
        let given = self.vm.give(&entries(&means));
        if given.is_err() {
            // As KVM has it still.
            match before {
                Some(before) => means.insert(number, before),
                None => means.remove(&number),
            };
        }
        given
    }
}

/// The table as KVM reads it.
fn entries(means: &BTreeMap<u32, Means>) -> Vec<kvm_irq_routing_entry> {
    means.iter().filter_map(|(number, means)| entry(*number, *means)).collect()
}

fn entry(number: u32, means: Means) -> Option<kvm_irq_routing_entry> {
    let mut entry = kvm_irq_routing_entry { gsi: number, ..Default::default() };
    match means {
        Means::Nothing => return None,
        Means::Line => {
            entry.type_ = KVM_IRQ_ROUTING_IRQCHIP;
            entry.u.irqchip = kvm_irq_routing_irqchip { irqchip: LINES, pin: number };
        }
        Means::Message(device, message) => {
            entry.type_ = KVM_IRQ_ROUTING_MSI;
            let mut msi = kvm_irq_routing_msi {
                address_lo: message.address as u32,
                address_hi: (message.address >> 32) as u32,
                data: message.data,
                ..Default::default()
            };
            // An ITS tells devices apart by their ids; x86's messages say all by themselves.
            if cfg!(target_arch = "aarch64") {
                entry.flags = KVM_MSI_VALID_DEVID;
                msi.__bindgen_anon_1.devid = device;
            }
            entry.u.msi = msi;
        }
    }
    Some(entry)
}

/// The part of the table of one device.
pub struct Irqfds {
    routes: Arc<Routes>,
    /// Its id, as the guest's interrupt controller has it.
    device: u32,
}

impl Irqfds {
    /// Of a device with this id.
    pub const fn new(routes: Arc<Routes>, device: u32) -> Self {
        Self { routes, device }
    }
}

impl Guest for Irqfds {
    type Event = EventFd;

    fn number(&self) -> io::Result<u32> {
        let mut means = crate::lock(&self.routes.means);
        let free = (FIRST..END).find(|number| !means.contains_key(number));
        let number = free.ok_or_else(|| io::Error::other("KVM has no more numbers for messages"))?;
        means.insert(number, Means::Nothing);
        Ok(number)
    }

    fn route(&self, number: u32, message: MsiMessage) -> io::Result<()> {
        self.routes.change(number, Means::Message(self.device, message))
    }

    fn connect(&self, event: &EventFd, number: u32) -> io::Result<()> {
        self.routes.vm.register_irqfd(event, number).map_err(errno)
    }

    fn disconnect(&self, event: &EventFd, number: u32) -> io::Result<()> {
        if number < FIRST
            && let Some(lines) = self.routes.lines.get()
        {
            // Without them nothing is raised.
            lines.upgrade().iter().for_each(|lines| lines.disconnect(event));
            return Ok(());
        }
        self.routes.vm.unregister_irqfd(event, number).map_err(errno)
    }

    fn connect_line(&self, event: &EventFd, resample: &EventFd, line: u32) -> io::Result<()> {
        if let Some(lines) = self.routes.lines.get() {
            return lines.upgrade().ok_or(io::ErrorKind::NotFound)?.connect(event, resample, line);
        }
        self.routes.change(line, Means::Line)?;
        self.routes.vm.register_irqfd_with_resample(event, resample, line).map_err(errno)
    }

    fn free(&self, number: u32) {
        let mut means = crate::lock(&self.routes.means);
        means.remove(&number);
        // What KVM has too much stands for an event that nobody counts any more.
        let _ = self.routes.vm.give(&entries(&means));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_address_data_and_on_aarch64_its_device() {
        let message = MsiMessage { address: 0x1_0808_0040, data: 5 };
        let made = entry(FIRST, Means::Message(0x18, message)).unwrap();
        assert_eq!((made.gsi, made.type_), (FIRST, KVM_IRQ_ROUTING_MSI));
        // SAFETY: the union holds a message, as its type says.
        let msi = unsafe { made.u.msi };
        assert_eq!((msi.address_lo, msi.address_hi, msi.data), (0x808_0040, 1, 5));
        let flags = if cfg!(target_arch = "aarch64") { KVM_MSI_VALID_DEVID } else { 0 };
        assert_eq!(made.flags, flags);
    }

    #[test]
    fn a_line_leads_to_its_pin_and_what_means_nothing_is_not_in_the_table() {
        let means = BTreeMap::from([(4, Means::Line), (FIRST, Means::Nothing)]);
        let table = entries(&means);
        assert_eq!(table.len(), 1);
        // SAFETY: the union holds a line, as its type says.
        let pin = unsafe { table[0].u.irqchip };
        assert_eq!((table[0].gsi, table[0].type_, pin.pin), (4, KVM_IRQ_ROUTING_IRQCHIP, 4));
    }
}
