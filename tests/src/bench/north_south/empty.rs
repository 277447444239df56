//! The emptiest XDP program, natively attached: what a veth asks for XDP, before any program does anything.
//!
//! A veth copies what its sender made into a frame for XDP, which the driver of a NIC has from the start. Two
//! instructions show what that costs.

use std::fs::File;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Xdp, xdp::XdpMode},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};
use rustix::{
    fd::AsFd as _,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::world::Pod;

const NAME: &str = "empty";
/// `r0 = XDP_PASS; exit`.
const PASS: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Attached for as long as it lives.
pub struct EmptyXdp(#[expect(dead_code, reason = "its links end with it")] Ebpf);

/// Attaches it to these devices of a namespace.
///
/// # Errors
/// The kernel has no native XDP on veth.
pub fn attach(host: &Pod, devices: &[&str]) -> Result<EmptyXdp> {
    let mut ebpf = Ebpf::load(&elf()?)?;
    let program: &mut Xdp = ebpf.program_mut(NAME).context("no program")?.try_into()?;
    program.load()?;
    let netns = File::open(format!("/run/netns/{}", host.netns))?;
    // The namespace is the thread's own; this one ends with it.
    std::thread::scope(|scope| {
        let attached = scope.spawn(|| -> Result<()> {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            for device in devices {
                program.attach(device, XdpMode::Driver)?;
            }
            Ok(())
        });
        attached.join().expect("attaching does not panic")
    })?;
    Ok(EmptyXdp(ebpf))
}

fn elf() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    let value = object.append_section_data(section, &PASS, 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value,
        size: PASS.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    Ok(object.write()?)
}
