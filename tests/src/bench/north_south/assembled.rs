//! XDP programs of a few instructions that a bench writes itself, and how they come into the kernel.

use std::fs::File;

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::Xdp};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};
use rustix::{
    fd::AsFd as _,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::world::Pod;

const NAME: &str = "assembled";

/// A program in the kernel, for as long as this lives.
pub struct Assembled(Ebpf);

impl Assembled {
    /// Loads a program of these instructions.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(instructions: &[[u8; 8]]) -> Result<Self> {
        let mut assembled = Self(Ebpf::load(&elf(instructions)?)?);
        assembled.program()?.load()?;
        Ok(assembled)
    }

    /// The program.
    ///
    /// # Errors
    /// It is none of XDP.
    pub fn program(&mut self) -> Result<&mut Xdp> {
        Ok(self.0.program_mut(NAME).context("no program")?.try_into()?)
    }

    /// Lets `act` do something with it in a pod's network namespace.
    ///
    /// # Errors
    /// Those of `act`, or there is no such namespace.
    pub fn within<T: Send>(
        &mut self,
        host: &Pod,
        act: impl FnOnce(&mut Xdp) -> Result<T> + Send,
    ) -> Result<T> {
        let netns = File::open(format!("/run/netns/{}", host.netns))?;
        let program = self.program()?;
        // The namespace is the thread's own; this one ends with it.
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
                act(program)
            });
            acting.join().expect("it does not panic")
        })
    }
}

fn elf(instructions: &[[u8; 8]]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    let bytes = instructions.concat();
    let value = object.append_section_data(section, &bytes, 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value,
        size: bytes.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    Ok(object.write()?)
}
