//! `cargo xtask build`: the eBPF object first, then the binary that embeds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf,
};

use crate::{
    setup::Toolchain,
    shell::{cargo, run, workspace},
};

/// Where the agent's build script looks for the object, relative to the workspace.
const OBJECT: &str = "target/ebpf/sluice.o";

/// Builds both; returns the path of `sluice`.
pub fn all(toolchain: &Toolchain, release: bool) -> Result<PathBuf> {
    ebpf(toolchain)?;
    let profile = if release { "release" } else { "dev" };
    run(cargo().current_dir(workspace()).args(["build", "--package", "sluice", "--profile", profile]))?;
    Ok(workspace().join("target").join(if release { "release" } else { "debug" }).join("sluice"))
}

/// Builds the optimised binary so that it runs on any machine of this architecture: static, and without a path of this
/// one in it, so that two machines with the same compiler build the same. Returns its path.
pub fn portable(toolchain: &Toolchain) -> Result<PathBuf> {
    ebpf(toolchain)?;
    let folder = workspace().join("target/image");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags = format!("-C target-feature=+crt-static {}", no_paths());
    run(cargo()
        .current_dir(workspace())
        .args(["build", "--quiet", "--locked", "--package", "sluice", "--release", "--target", &target])
        .arg("--target-dir")
        .arg(&folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", flags))?;
    Ok(folder.join(target).join("release/sluice"))
}

/// Flags that keep this machine's paths out of what is built.
fn no_paths() -> String {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let toolchain = crate::setup::folder();
    let mut flags =
        vec![remap(&cargo_home, "/cargo"), remap(&workspace(), "/sluice"), remap(&toolchain, "/toolchain")];
    // What lies in the workspace cargo names by its path in there.
    flags.extend(toolchain.strip_prefix(workspace()).ok().map(|inside| remap(inside, "/toolchain")));
    flags.join(" ")
}

/// Leaves the sections of DWARF out, with their relocations: they name folders of this machine, and the kernel reads BTF alone.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        section.delete = [".debug_", ".rel.debug_"].iter().any(|prefix| name.starts_with(prefix));
    }
    // LLVM keeps the names of sections among those of symbols, where this writer wants them apart.
    let names = builder.sections.add();
    (names.name, names.sh_type, names.sh_addralign) = (".shstrtab".into(), elf::SHT_STRTAB, 1);
    names.data = SectionData::SectionString;
    builder.delete_orphans();
    let mut bytes = Vec::new();
    builder.write(&mut bytes)?;
    Ok(bytes)
}

/// Compiles `ebpf/` and puts the object where the agent embeds it from.
pub fn ebpf(toolchain: &Toolchain) -> Result<()> {
    let target = workspace().join("target/ebpf/build");
    run(toolchain
        .cargo()
        .current_dir(workspace())
        .args(["build", "--quiet", "--release", "--package", "sluice-ebpf", "--target", "bpfel-unknown-none"])
        .args(["-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target)
        .env(
            "RUSTFLAGS",
            format!(
                "-C debuginfo=2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order {}",
                no_paths()
            ),
        ))?;
    let built = target.join("bpfel-unknown-none/release/sluice");
    let object = workspace().join(OBJECT);
    let bytes = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let bytes = without_dwarf(&bytes).with_context(|| format!("cannot strip {}", built.display()))?;
    // An unchanged object keeps its time stamp, so that cargo does not build the agent again.
    if std::fs::read(&object).ok().as_deref() != Some(&bytes) {
        std::fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(())
}
