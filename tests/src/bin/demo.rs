//! `cargo xtask demo`, after it has built everything.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};
use sluice_tests::{
    demo::{Demo, say},
    world::{World, sluice_binary},
};

/// A small shop on one node: real programs in network namespaces, Services translated by eBPF.
#[derive(Parser)]
struct Args {
    /// Ends with one line of JSON
    #[arg(long)]
    json: bool,
    /// Leaves everything running until Ctrl-C, and prints commands to look around
    #[arg(long)]
    keep: bool,
    /// Folder of the shop's manifests
    manifests: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let world = World::new();
    clean_up_on_signals(&world)?;
    let (mut demo, agent) = Demo::start(world, &args.manifests)?;
    let _agent = demo.run(agent)?;
    print!("\n{}", demo.table());
    if args.json {
        println!("{}", demo.json());
    }
    if args.keep {
        look_around(&demo);
        loop {
            std::thread::park();
        }
    }
    Ok(demo.is_ok())
}

/// On Ctrl-C and its like the world goes before we do.
fn clean_up_on_signals(world: &World) -> Result<()> {
    let remover = world.remover();
    let mut signals = Signals::new(TERM_SIGNALS).context("cannot handle signals")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("\n  … taking the node down");
            remover.remove();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn look_around(demo: &Demo) {
    let world = demo.world();
    let (binary, bpffs) = (sluice_binary(), world.bpffs());
    let (binary, bpffs) = (binary.display(), bpffs.display());
    let node = format!("nsenter --net=/run/netns/{}", world.node().netns);
    println!("\nThe shop is open. From another terminal, as root:");
    println!("  {node} {binary} status --bpffs {bpffs}");
    println!("  {binary} service --bpffs {bpffs}");
    println!("  {binary} explain --bpffs {bpffs} shop/catalogue");
    println!("  {}", world.find("visitor").shell_command("curl http://10.96.0.20/"));
    println!("  edit a file in {} and dial again", world.manifests().display());
    say("Ctrl-C takes everything down");
}
