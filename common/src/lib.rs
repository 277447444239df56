//! What the kernel programs and userspace share: map keys and values, reasons, and the pure decisions.
//!
//! No I/O, no allocation, no `unsafe`: the same functions run in eBPF, in `sluice explain` and in tests.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod addr;
pub mod choose;
pub mod layout;
pub mod packet;
pub mod reason;

pub use addr::Addr;
pub use reason::Reason;
