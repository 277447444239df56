//! `cargo xtask bench packet`: what each program of the packet path takes for one packet, by the kernel's own clock
//! around it (`BPF_PROG_TEST_RUN`). No device, no stack, no copy: the program alone, with maps and routes that are real.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Results, one_cpu};
use crate::{
    packet::{Carried, Packet, SYN, at, read},
    reference::{
        packets::{Kind, Sender},
        way::Way,
    },
    rig::{
        Place, Rig,
        exchange::{SENDERS, address},
        served,
    },
};

/// Packets of each case, one run each: their median counts.
const PACKETS: usize = 5_000;
/// Runs without a pause on one packet that stays what it is.
const WARM: u32 = 200_000;

/// Runs everything.
///
/// # Errors
/// A program does not run.
pub fn packet(mut say: impl FnMut(&str)) -> Result<Results> {
    let mut results = Results::named("packet");
    one_cpu()?;
    let mut rig = Rig::with_services();
    let foreign = |is_v6: bool| {
        let [src, dst] = if is_v6 {
            ["[fd00:50::2]:1000", "[2001:db8:77::1]:80"]
        } else {
            ["192.168.50.2:1000", "198.51.100.7:80"]
        };
        Packet::new(at(src), at(dst), Carried::Udp)
    };
    for is_v6 in [false, true] {
        for place in [Place::Early, Place::FromNetwork, Place::ToNetwork, Place::FromPod(1), Place::ToPod(1)]
        {
            say(&format!("{}, {}", place.program(), if is_v6 { "IPv6" } else { "IPv4" }));
            let frame = rig.frame(place, &foreign(is_v6).ip());
            let mut no_ip = frame.clone();
            // ARP: the program ends where it began.
            no_ip[12..14].copy_from_slice(&[8, 6]);
            let mut add = |case: &str, ns: Spread| {
                let name = place.program();
                eprintln!("    {name:<12} {case:<42} {:>5} ns ({} to {})", ns.1, ns.0, ns.2);
                results.runs.push(json!({"program": name, "ipv6": is_v6, "case": case,
                    "ns": {"median": ns.1, "low": ns.0, "high": ns.2}}));
            };
            add("no IP", singly(&mut rig, place, |_, _| no_ip.clone())?);
            add("not ours", singly(&mut rig, place, |_, _| frame.clone())?);
            let warm = rig.repeat(place, &frame, WARM).context("the kernel runs it")?.ns;
            add("not ours, without a pause", (warm, warm, warm));
            if matches!(place, Place::FromPod(_) | Place::ToPod(_)) {
                rig.forget_and_tell();
                let warm = rig.repeat(place, &frame, WARM).context("the kernel runs it")?.ns;
                add("not ours, no pod has connections", (warm, warm, warm));
            }
            for (name, pod) in [("a pod here", 0), ("a pod elsewhere", 3)] {
                for sender in SENDERS {
                    connection(&mut rig, (place, is_v6), sender, pod, |case, ns| {
                        add(&format!("{case}, {} and {name}", who(sender)), ns);
                    })?;
                }
            }
        }
    }
    Ok(results)
}

const fn who(sender: Sender) -> &'static str {
    match sender {
        Sender::Outside => "a client outside",
        Sender::Pod(_) => "a pod",
        Sender::Node => "the node",
    }
}

/// Quartiles, ns.
type Spread = (u64, u64, u64);

/// Runs the program once on each of many packets.
fn singly(rig: &mut Rig, place: Place, mut frame: impl FnMut(&mut Rig, usize) -> Vec<u8>) -> Result<Spread> {
    let mut times = Vec::with_capacity(PACKETS);
    for number in 0..PACKETS {
        let frame = frame(rig, number);
        times.push(rig.try_run(place, &frame).context("the kernel takes no such frame")?.ns);
    }
    times.sort_unstable();
    Ok((times[PACKETS / 4], times[PACKETS / 2], times[PACKETS * 3 / 4]))
}

/// First packets, later ones and answers of connections, as far as this program meets them.
fn connection(
    rig: &mut Rig,
    (place, is_v6): (Place, bool),
    sender: Sender,
    pod: usize,
    mut add: impl FnMut(&str, Spread),
) -> Result<()> {
    let at_network = |place| matches!(place, Place::Early | Place::FromNetwork);
    let same = |met: Place| met == place || (at_network(met) && at_network(place));
    let row = served("TCP", Some(pod));
    let to = row.at(Kind::LoadBalancer, is_v6, &rig.both());
    let src = address(rig, sender, is_v6, 999);
    let way = Way::of(sender, src.ip(), row.endpoint(is_v6).ip(), rig.own(is_v6));
    let packet = Packet::new(src, to, Carried::Tcp(SYN));
    if same(sender.place()) {
        rig.forget();
        let first = |rig: &mut Rig, number: usize| {
            let mut other = packet.clone();
            other.src.set_port(1_024 + number as u16);
            rig.frame(place, &other.ip())
        };
        add("new", singly(rig, place, first)?);
        let known = rig.frame(place, &packet.ip());
        let _now_known = rig.run(sender.place(), &known);
        add("known", singly(rig, place, |_, _| known.clone())?);
    }
    if same(way.back) {
        let frame = rig.frame(sender.place(), &packet.ip());
        let met = rig.run(sender.place(), &frame);
        let seen = read(&met.frame).context("a packet")?.ends;
        let back = rig.frame(place, &packet.between(seen.dst, seen.src).ip());
        add("answer", singly(rig, place, |_, _| back.clone())?);
    }
    Ok(())
}
