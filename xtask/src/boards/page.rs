//! `docs/boards.md`, from what came of the boards.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Board, Console, Device, Pci, Verdict};

/// The most kinds of devices that a table has.
const MOST_KINDS: usize = 30;

/// The page.
pub fn page(boards: &[Board], packages: &BTreeMap<String, usize>) -> String {
    let mut page = String::from(
        "# Boards\n\nWritten by `cargo xtask boards`, not by hand. What AxVM says of the device trees that Debian's kernels bring: \
         each was read, planned with one VM without devices, and then with each of its devices alone. Nothing was run on any of \
         them: that a board \"can start\" means that its tree has all that AxVM asks for, not that anybody has seen it.\n\n",
    );
    for (package, trees) in packages {
        let _ = writeln!(page, "- `{package}`: {trees} trees, each name counted with the newest kernel");
    }
    let starts = |board: &&Board| board.starts();
    let count = |wanted: &dyn Fn(&Board) -> bool| boards.iter().filter(|board| wanted(board)).count();
    let _ = write!(
        page,
        "\n| | boards |\n|---|---|\n| read | {} |\n| AxVM can start | {} |\n| of these: once the boot loader has filled in the \
         memory | {} |\n| of these: PCI functions can be given (a generic ECAM host bridge behind an SMMUv3) | {} |\n",
        boards.len(),
        count(&|board| board.starts()),
        count(&|board| board.starts() && board.memory),
        count(&|board| board.starts() && board.pci == Pci::Confined),
    );
    page.push_str(
        "\nMemory that a tree leaves to the boot loader is stood in for (`axvm check --memory 0x10_0000_0000:2G`).\n\n\
         ## What keeps AxVM from the others\n\n| reason | boards | on so many it's the only one |\n|---|---|---|\n",
    );
    let mut reasons: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for board in boards {
        for reason in &board.reasons {
            let entry = reasons.entry(reason).or_default();
            entry.0 += 1;
            entry.1 += usize::from(board.reasons.len() == 1);
        }
    }
    for (reason, (all, alone)) in most_first(reasons) {
        let _ = writeln!(page, "| {reason} | {all} | {alone} |");
    }
    consoles(&mut page, boards);
    vendors(&mut page, boards);
    page.push_str("\n## Where PCI functions can be given\n\n");
    for board in boards.iter().filter(starts).filter(|board| board.pci == Pci::Confined) {
        let _ = writeln!(page, "- {}", board.name);
    }
    page.push_str("\n## Where AxVM can start\n\n");
    let mut by_vendor: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for board in boards.iter().filter(starts) {
        let name = board.name.strip_prefix(board.vendor()).unwrap_or(&board.name).trim_start_matches('/');
        by_vendor.entry(board.vendor()).or_default().push(name);
    }
    for (vendor, names) in by_vendor {
        let _ = writeln!(page, "- **{vendor}** ({}): {}", names.len(), names.join(", "));
    }
    devices(&mut page, boards);
    page
}

fn most_first<T: Ord>(counted: BTreeMap<&str, T>) -> Vec<(&str, T)> {
    let mut sorted: Vec<_> = counted.into_iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    sorted
}

/// What the consoles are that the trees name.
fn consoles(page: &mut String, boards: &[Board]) {
    let count = |wanted: &dyn Fn(&Board) -> bool| boards.iter().filter(|board| wanted(board)).count();
    let _ = write!(
        page,
        "\n## Consoles\n\nOf all boards that were read. A console that isn't driven is replaced by another UART where there is one that \
         needs nothing to be turned on, else messages stay in memory.\n\n| the console that the tree names | boards | another stands in \
         |\n|---|---|---|\n| is driven | {} | |\n| none | {} | {} |\n",
        count(&|board| board.console.driven),
        count(&|board| board.console.kind.is_none()),
        count(&|board| board.console.kind.is_none() && board.console.replaced),
    );
    let mut others: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for Console { kind, replaced, .. } in boards.iter().map(|board| &board.console).filter(|it| !it.driven) {
        if let Some(kind) = kind {
            let entry = others.entry(kind).or_default();
            entry.0 += 1;
            entry.1 += usize::from(*replaced);
        }
    }
    for (kind, (all, replaced)) in most_first(others) {
        let _ = writeln!(page, "| isn't: `{kind}` | {all} | {replaced} |");
    }
}

/// One line a vendor.
fn vendors(page: &mut String, boards: &[Board]) {
    page.push_str(
        "\n## By vendor\n\nDevices are those in use on boards where AxVM can start. \"As they are\": nothing is to be said. \"With a \
         word\": `dma = \"none\"`. \"Accepted\": `accept`, and perhaps that word.\n\n| vendor | boards | start | devices | as \
         they are | with a word | accepted | not |\n|---|---|---|---|---|---|---|---|\n",
    );
    let mut vendors: BTreeMap<&str, Vec<&Board>> = BTreeMap::new();
    for board in boards {
        vendors.entry(board.vendor()).or_default().push(board);
    }
    for (vendor, boards) in vendors {
        let starting = || boards.iter().filter(|board| board.starts());
        let devices = |verdict: Verdict| {
            starting().flat_map(|board| &board.devices).filter(|device| device.verdict == verdict).count()
        };
        let [yes, word, accept, no] =
            [Verdict::Yes, Verdict::Word, Verdict::Accept, Verdict::No].map(devices);
        let _ = writeln!(
            page,
            "| {vendor} | {} | {} | {} | {yes} | {word} | {accept} | {no} |",
            boards.len(),
            starting().count(),
            yes + word + accept + no
        );
    }
}

/// What keeps devices, and which kinds can be given on most boards.
fn devices(page: &mut String, boards: &[Board]) {
    let all = || boards.iter().filter(|board| board.starts()).flat_map(|board| &board.devices);
    page.push_str(
        "\n## What keeps devices from guests\n\nOn boards where AxVM can start. The [rules](manual.md#rules); one device can break \
         several.\n\n| rule | devices |\n|---|---|\n",
    );
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    for rule in all().flat_map(|device| &device.rules) {
        *rules.entry(rule).or_default() += 1;
    }
    for (rule, count) in most_first(rules) {
        let _ = writeln!(page, "| `{rule}` | {count} |");
    }
    let kinds = |verdict: Verdict| {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for Device { kind, .. } in all().filter(|device| device.verdict == verdict && !device.kind.is_empty())
        {
            *kinds.entry(kind).or_default() += 1;
        }
        let listed = most_first(kinds).into_iter().take(MOST_KINDS);
        listed.map(|(kind, count)| format!("`{kind}` ({count})")).collect::<Vec<_>>().join(", ")
    };
    for (title, verdict) in [
        ("as they are", Verdict::Yes),
        ("with a word", Verdict::Word),
        ("where the file accepts what they are or need", Verdict::Accept),
    ] {
        let _ =
            write!(page, "\n## Kinds that can be given {title}\n\nThe most frequent: {}.\n", kinds(verdict));
    }
}
