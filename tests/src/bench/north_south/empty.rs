//! The emptiest XDP program, natively attached: what a veth asks for XDP, before any program does anything.
//!
//! A veth copies what its sender made into a frame for XDP, which the driver of a NIC has from the start. Two
//! instructions show what that costs.

use anyhow::Result;
use aya::programs::xdp::XdpMode;

use super::assembled::Assembled;
use crate::world::Pod;

/// `r0 = XDP_PASS; exit`.
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// Attached for as long as it lives.
pub struct EmptyXdp(#[expect(dead_code, reason = "its links end with it")] Assembled);

/// Attaches it to these devices of a namespace.
///
/// # Errors
/// The kernel has no native XDP on veth.
pub fn attach(host: &Pod, devices: &[&str]) -> Result<EmptyXdp> {
    let mut assembled = Assembled::load(&PASS)?;
    assembled.within(host, |program| {
        for device in devices {
            program.attach(device, XdpMode::Driver)?;
        }
        Ok(())
    })?;
    Ok(EmptyXdp(assembled))
}
