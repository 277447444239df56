//! `cargo xtask demo`, after it has built everything.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};
use sluice_tests::{
    demo::{self, Demo, Outside, OutsideRows, say},
    world::{World, remove_all, sluice_binary},
};

/// A small shop on one node, then two nodes and a client outside: real programs in network namespaces, Services translated
/// by eBPF.
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
    clean_up_on_signals()?;
    let (mut shop, agent) = Demo::start(World::new(), &args.manifests)?;
    let _agent = shop.run(agent)?;
    say("two nodes, their pods on an overlay, and a client outside of the cluster");
    let mut outside = Outside::start(&[])?;
    let from_outside = OutsideRows::of(&mut outside)?;
    print!("\n{}\n{}", shop.table(), from_outside.table());
    let rows = [shop.rows(), from_outside.all()].concat();
    if args.json {
        println!("{}", demo::json(&rows));
    }
    if args.keep {
        look_around(&shop, &outside);
        loop {
            std::thread::park();
        }
    }
    Ok(demo::is_ok(&rows))
}

/// On Ctrl-C and its like our worlds go before we do.
fn clean_up_on_signals() -> Result<()> {
    let mut signals = Signals::new(TERM_SIGNALS).context("cannot handle signals")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("\n  … taking the nodes down");
            remove_all();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn look_around(demo: &Demo, outside: &Outside) {
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
    let nodes = outside.world();
    println!("  {}", nodes.client().shell_command("curl http://192.168.50.11:30080/"));
    let (host, bpffs) = (&nodes.node(1).host.netns, nodes.node(1).bpffs());
    println!("  nsenter --net=/run/netns/{host} {binary} status --bpffs {}", bpffs.display());
    say("Ctrl-C takes everything down");
}
