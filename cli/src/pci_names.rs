//! Names of PCI devices, from the list that distributions have (https://pci-ids.ucw.cz).

use std::fs;

/// Where distributions have it.
const PLACES: [&str; 2] = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// The list: empty where there is none.
pub struct Names(String);

impl Names {
    /// The machine's.
    pub fn find() -> Self {
        let found = PLACES.iter().find_map(|place| fs::read(place).ok());
        Self(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default())
    }

    /// What a device is called; its vendor alone, if it isn't in the list.
    pub fn of(&self, vendor: u16, device: u16) -> Option<String> {
        let mut lines = self.0.lines();
        let vendor = lines.find_map(|line| entry(line, vendor))?;
        let mut below = lines.take_while(|line| line.starts_with(['\t', '#']) || line.is_empty());
        let device = below.find_map(|line| entry(line.strip_prefix('\t')?, device));
        Some(device.map_or_else(|| vendor.to_string(), |device| format!("{vendor} {device}")))
    }
}

/// The name in a line that begins with this number.
fn entry(line: &str, id: u16) -> Option<&str> {
    let (number, name) = line.split_at_checked(4)?;
    let is_it =
        number.bytes().all(|digit| digit.is_ascii_hexdigit()) && u16::from_str_radix(number, 16) == Ok(id);
    name.strip_prefix("  ").filter(|_| is_it).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_looked_up_below_its_vendor() {
        let names = Names(
            "# a comment\n\n1af4  Red Hat, Inc.\n\t0010  another device\n1b36  Red Hat\n\t0008  QEMU host bridge\n\
             # between\n\t0010  QEMU NVM Express Controller\n\t\t1af4 1100  a subsystem\n8086  Intel\n\t0011  not its\nC 01  Storage\n"
                .into(),
        );
        assert_eq!(names.of(0x1b36, 0x10).as_deref(), Some("Red Hat QEMU NVM Express Controller"));
        assert_eq!(names.of(0x1b36, 0x11).as_deref(), Some("Red Hat"));
        assert_eq!(names.of(0x1af4, 0x10).as_deref(), Some("Red Hat, Inc. another device"));
        assert_eq!(names.of(0x1234, 0x10), None);
        assert_eq!(Names(String::new()).of(0x1b36, 0x10), None);
    }
}
