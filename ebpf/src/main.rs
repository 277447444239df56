//! The kernel programs of Sluice. One file per attach point under `hooks/`; decisions are in `sluice-common`.
#![no_std]
#![no_main]

mod affinity;
mod bind;
mod bytes;
mod events;
mod family;
mod hooks;
mod maps;
mod packet;
mod raw;
mod rules;
mod socket;
mod steer;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
