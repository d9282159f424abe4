//! The smallest programs that a cgroup can have: they return.
//!
//! In: a cgroup. Out: the programs attached to it. Never: another instruction, so that whatever else costs
//! more than these is the program's own doing.

use std::path::PathBuf;

use anyhow::Context as _;
use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

/// `r0 = 1; exit`: proceed.
const PROCEED: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
/// Hooks that the clients of [`crate::load`] pass, with the programs' names.
const HOOKS: [(&str, &str); 3] = [
    ("cgroup/connect4", "empty_connect4"),
    ("cgroup/sendmsg4", "empty_sendmsg4"),
    ("cgroup/recvmsg4", "empty_recvmsg4"),
];

/// Programs attached to a cgroup; dropping it detaches them.
#[derive(Debug)]
pub struct Empty {
    /// The cgroup.
    pub cgroup: PathBuf,
    /// The id of the connect4 program.
    pub connect4: u64,
    _programs: Ebpf,
}

impl Empty {
    /// Attaches them.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn attach(cgroup: PathBuf) -> anyhow::Result<Empty> {
        let mut programs = Ebpf::load(&object()?).context("cannot load the empty programs")?;
        let file = std::fs::File::open(&cgroup)?;
        let mut connect4 = 0;
        for (_, name) in HOOKS {
            let program = programs.program_mut(name).with_context(|| format!("no program {name}"))?;
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load().with_context(|| format!("cannot load {name}"))?;
            program
                .attach(&file, CgroupAttachMode::Single)
                .with_context(|| format!("cannot attach {name}"))?;
            if name == HOOKS[0].1 {
                connect4 = u64::from(program.info()?.id());
            }
        }
        Ok(Empty { cgroup, connect4, _programs: programs })
    }
}

/// An ELF object as a compiler would write it: a section and a symbol for each program.
fn object() -> anyhow::Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    for (section, name) in HOOKS {
        let id = object.add_section(Vec::new(), section.into(), SectionKind::Text);
        let value = object.append_section_data(id, &PROCEED, 8);
        object.add_symbol(Symbol {
            name: name.into(),
            value,
            size: PROCEED.len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(id),
            flags: SymbolFlags::None,
        });
    }
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Dual MIT/GPL\0", 1);
    Ok(object.write()?)
}
