//! The system file and the files that it names, read once, with everything that is wrong with them.

use std::fs;
use std::path::{Path, PathBuf};

use axvm_addr::VmId;
use axvm_guest::image::{ImageError, ImageInfo, Images, VmImages};
use axvm_linux::images::{Beside, ImageFile};
use axvm_plan::problem::{Problem, Rule};
use axvm_system::bundle::{self, ImageKind, RunOptions};
use axvm_system::file::{self, Spans};
use axvm_system::model::{Item, System};

/// A system file, as far as it could be read.
pub struct Input {
    /// Its name, as the user typed it.
    pub name: String,
    /// Its folder: paths in it are relative to this one.
    pub folder: PathBuf,
    /// Its text.
    pub text: String,
    /// What it says. With problems, stand-ins are in it: good for a plan only.
    pub system: Option<System>,
    /// What the plan needs to know of the images.
    pub images: Images,
    contents: Vec<(VmId, ImageKind, ImageFile)>,
    spans: Spans,
    problems: Vec<(u32, Problem)>,
}

impl Input {
    /// Reads the file and the images that it names.
    pub fn read(path: &Path) -> Self {
        let name = path.display().to_string();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_path_buf();
        let mut input = Self {
            name,
            folder,
            text: String::new(),
            system: None,
            images: Images::default(),
            contents: Vec::new(),
            spans: Spans::default(),
            problems: Vec::new(),
        };
        match fs::read(path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}")))
        {
            Ok(text) => input.text = text,
            Err(error) => {
                input.add(Problem::new(
                    Item::File,
                    Rule::File,
                    format!("the system file can't be read: {error}"),
                ));
                return input;
            }
        }
        let (system, spans, problems) = file::read(&input.text);
        input.spans = spans;
        for problem in problems {
            let rule = match &problem.item {
                Item::Vm(_, key) if key == "name" => Rule::VmName,
                _ => Rule::File,
            };
            let line = problem.position.line;
            let place = format!("{}:{line}", input.name);
            input.problems.push((line, Problem::new(problem.item, rule, problem.message).at(place)));
        }
        for (id, vm) in (0u16..).zip(system.iter().flat_map(|system| &system.vms)) {
            let raw = vm.load.zip(vm.entry);
            let kernel = input.kernel(id, &vm.kernel, raw);
            let initrd_len = input.other(id, ImageKind::Initrd, vm.initrd.as_deref());
            let dtb_len = input.other(id, ImageKind::DeviceTree, vm.dtb.as_deref());
            input.images.vms.push(VmImages { kernel, initrd_len, dtb_len });
        }
        input.system = system;
        input
    }

    fn kernel(
        &mut self,
        vm: u16,
        path: &str,
        raw: Option<(axvm_addr::Gpa, axvm_addr::Gpa)>,
    ) -> Result<ImageInfo, ImageError> {
        let read = self.content(path);
        let info = match &read {
            Ok(file) => ImageInfo::parse(file.bytes(), raw),
            Err(error) => Err(ImageError::Unreadable(error.clone())),
        };
        if let Err(error) = &info {
            let item = Item::Vm(vm, "kernel".into());
            // A key that is missing or no string has its problem already.
            if !self.has_problem(&item) {
                self.add(Problem::new(item, Rule::Kernel, format!("\"{path}\": {error}")));
            }
        }
        if let Ok(file) = read {
            self.contents.push((VmId(vm), ImageKind::Kernel, file));
        }
        info
    }

    fn other(&mut self, vm: u16, kind: ImageKind, path: Option<&str>) -> Option<u64> {
        match self.content(path?) {
            Ok(file) => {
                let length = file.bytes().len() as u64;
                self.contents.push((VmId(vm), kind, file));
                Some(length)
            }
            Err(error) => {
                let message = format!("\"{}\": the {kind} can't be read: {error}", path.unwrap_or_default());
                self.add(Problem::new(Item::Vm(vm, kind.to_string()), Rule::File, message));
                None
            }
        }
    }

    fn content(&self, path: &str) -> Result<ImageFile, String> {
        ImageFile::open(&self.folder.join(path)).map_err(|error| error.to_string())
    }

    /// The device trees that VMs bring, by position.
    pub fn device_trees(&self) -> Vec<(u16, &[u8])> {
        let trees = self.contents.iter().filter(|(_, kind, _)| *kind == ImageKind::DeviceTree);
        trees.map(|(vm, _, file)| (vm.0, file.bytes())).collect()
    }

    /// Ends the looking at the images, which stay open.
    pub fn look_away(&mut self) {
        self.contents.iter_mut().for_each(|(.., file)| file.look_away());
    }

    fn has_problem(&self, item: &Item) -> bool {
        self.problems.iter().any(|(_, problem)| problem.item == *item)
    }

    /// Adds a problem at its item's place. A problem of the file as a whole has the file's name only.
    pub fn add(&mut self, problem: Problem) {
        let (line, place) = match problem.item {
            Item::File => (0, self.name.clone()),
            _ => {
                let line = self.spans.find(&problem.item).line;
                (line, format!("{}:{line}", self.name))
            }
        };
        self.problems.push((line, problem.at(place)));
    }

    /// Adds what the plan found, but for what follows from the file's own problems: those of an item that already has
    /// one.
    pub fn add_planned(&mut self, planned: Vec<Problem>) {
        let known: Vec<Item> = self.problems.iter().map(|(_, problem)| problem.item.clone()).collect();
        for problem in planned {
            if !known.contains(&problem.item) {
                self.add(problem);
            }
        }
    }

    /// Whether there is none.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether a run that only plans makes sense: what the board is, is known and unquestioned.
    pub fn can_plan(&self) -> bool {
        let of_board = |problem: &Problem| matches!(problem.item, Item::Board(_) | Item::File);
        self.system.is_some() && !self.problems.iter().any(|(_, problem)| of_board(problem))
    }

    /// All problems, sorted by line.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = self.problems.iter().collect();
        problems.sort_by_key(|(line, _)| *line);
        problems.into_iter().map(|(_, problem)| problem.clone()).collect()
    }

    /// The bundle.
    ///
    /// # Errors
    ///
    /// In words, if the system can't be packed.
    pub fn bundle(&self, run: &RunOptions) -> Result<Vec<u8>, String> {
        let system = self.system.as_ref().ok_or("there is no system to pack")?;
        let contents: Vec<_> =
            self.contents.iter().map(|(vm, kind, file)| (*vm, *kind, file.bytes())).collect();
        bundle::write(system, run, &self.text, &contents).map_err(|error| error.to_string())
    }

    /// One whose images are empty: they stand open for the process that is started with it, and it says behind its end which is which.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn bundle_beside_images(&self, run: &RunOptions) -> Result<Vec<u8>, String> {
        let system = self.system.as_ref().ok_or("there is no system to pack")?;
        let contents: Vec<bundle::Content<'_>> =
            self.contents.iter().map(|(vm, kind, _)| (*vm, *kind, &[][..])).collect();
        let mut bytes =
            bundle::write(system, run, &self.text, &contents).map_err(|error| error.to_string())?;
        let handed = self.contents.iter().map(|(vm, kind, file)| file.hand_over(*vm, *kind));
        let handed: std::io::Result<_> = handed.collect();
        let handed = handed.map_err(|error| format!("images can't be handed over: {error}"))?;
        let beside = Beside { known: self.images.clone(), handed };
        beside.add_to(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}
