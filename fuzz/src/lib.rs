//! What is fuzzed: functions that take bytes and panic when something is not as it must be. libFuzzer, which finds bytes that
//! go new ways, is put around them by `cargo xtask fuzz --targets`; a test runs them on the committed inputs.

pub mod heads;
mod http1;
pub mod packets;
pub mod rules;
pub mod server_name;

/// Something to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its inputs' folder and dictionary.
    pub name: &'static str,
    /// Panics on what must not be.
    pub run: fn(&[u8]),
}

/// All that there are.
pub const TARGETS: [Target; 4] = [
    Target { name: "heads", run: heads::run },
    Target { name: "packets", run: packets::run },
    Target { name: "rules", run: rules::run },
    Target { name: "server_name", run: server_name::run },
];

/// The target that the environment names in `SLUICE_FUZZ`.
///
/// # Panics
/// It names none.
pub fn chosen() -> Target {
    let name = std::env::var("SLUICE_FUZZ").unwrap_or_default();
    let found = TARGETS.into_iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("SLUICE_FUZZ={name} is none of {:?}", TARGETS.map(|target| target.name)))
}
