//! Datagrams that reach the node as a driver's frames do: made by the kernel from pages (`BPF_PROG_TEST_RUN` with live
//! frames), and sent by the client's device with `XDP_TX`. The node's veth hands them to XDP as they are; where there is no
//! XDP it makes an skb of each, as the driver of a NIC does. So no way through the node pays for a copy that only veth makes.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions};
use rustix::time::{ClockId, clock_gettime};

use super::{
    assembled::Assembled,
    load,
    ways::{Destination, Kind, Way},
};
use crate::{
    flood::PAYLOAD,
    packet::{Carried, Packet, on_wire},
    world::{Pod, tool},
};

/// Frames of one measurement.
const FRAMES: u32 = 300_000;
const PROOF: u32 = 20_000;
/// Frames that pass a veth at once. Its ring holds 256.
const BATCH: u32 = 64;
/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 42;
/// Where the source port is.
const SOURCE_PORT: u8 = 34;
/// Ports from 20,000 on, as many as a power of two says.
const FIRST_PORT: i32 = 20_000;
const PORTS: i32 = 64;

/// CPU time for one frame from its making until the node has sent it, ns.
///
/// # Errors
/// The kernel sends none.
pub fn frame_ns(way: &Way, destination: Destination) -> Result<f64> {
    let base = way.kind == Kind::Base;
    let open = |open| if base { way.line.open_node(open) } else { way.line.open_backend(open) };
    open(false);
    let cpu = send(way, destination, FRAMES);
    open(true);
    Ok(cpu?.as_nanos() as f64 / f64::from(FRAMES))
}

/// Whether all frames come to the backend.
///
/// # Errors
/// That is not so.
pub fn prove(way: &Way, destination: Destination) -> Result<()> {
    let before = load::counted(way)?;
    send(way, destination, PROOF)?;
    let arrived = load::counted(way)? - before;
    if arrived != u64::from(PROOF) {
        bail!("{}, {}: {arrived} of {PROOF} frames arrived", way.name, destination.name());
    }
    Ok(())
}

fn send(way: &Way, destination: Destination, frames: u32) -> Result<Duration> {
    let (client, node) = (&way.line.client, &way.line.node.host);
    let from = SocketAddr::from((client.v4, FIRST_PORT as u16));
    let mut packet = Packet::new(from, way.address(destination, true), Carried::UdpWithoutSum);
    packet.payload = vec![b'.'; PAYLOAD];
    let macs = [hardware(node)?, hardware(client)?].concat();
    let frame = on_wire(macs.try_into().ok().context("two hardware addresses")?, &packet.ip());
    let mut sender = Assembled::load(&instructions(&frame))?;
    sender.within(client, |program| {
        let eth0 = rustix::net::netdevice::name_to_index(
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?,
            "eth0",
        )?;
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, frame.len() as u32, 0, eth0, 0, 0];
        let before = cpu_time();
        program.test_run(TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        })?;
        Ok(cpu_time() - before)
    })
}

/// Writes the headers again, for pages come back as the node left them, with another source port each; then `XDP_TX`.
fn instructions(frame: &[u8]) -> Vec<[u8; 8]> {
    let word = |code: u8, registers: u8, offset: u8, value: i32| {
        let [a, b, c, d] = value.to_le_bytes();
        [code, registers, offset, 0, a, b, c, d]
    };
    let mut program = vec![
        word(0xbf, 0x16, 0, 0),              // r6 = r1
        word(0x85, 0x00, 0, 7),              // r0 = bpf_get_prandom_u32()
        word(0x57, 0x00, 0, PORTS - 1),      // r0 &= 63
        word(0x07, 0x00, 0, FIRST_PORT),     // r0 += 20000
        word(0xdc, 0x00, 0, 16),             // r0 = be16 r0
        word(0x61, 0x62, 0, 0),              // r2 = data
        word(0x61, 0x63, 4, 0),              // r3 = data_end
        word(0xbf, 0x24, 0, 0),              // r4 = r2
        word(0x07, 0x04, 0, HEADERS as i32), // r4 += 42
    ];
    let mut stores: Vec<[u8; 8]> = (0..HEADERS as u8 / 4)
        .map(|number| {
            let at = usize::from(number) * 4;
            let value = frame[at..at + 4].try_into().map(i32::from_le_bytes).unwrap_or_default();
            word(0x62, 0x02, number * 4, value) // *(u32 *)(r2 + at) = value
        })
        .collect();
    let last = i32::from(u16::from_le_bytes([frame[HEADERS - 2], frame[HEADERS - 1]]));
    stores.push(word(0x6a, 0x02, HEADERS as u8 - 2, last)); // *(u16 *)(r2 + 40) = value
    stores.push(word(0x6b, 0x02, SOURCE_PORT, 0)); // *(u16 *)(r2 + 34) = r0
    program.push(word(0x2d, 0x34, stores.len() as u8, 0)); // if r4 > r3 skip the stores
    program.extend(stores);
    program.push(word(0xb7, 0x00, 0, 3)); // r0 = XDP_TX
    program.push(word(0x95, 0x00, 0, 0)); // exit
    program
}

fn hardware(pod: &Pod) -> Result<Vec<u8>> {
    let output = tool("ip").args(["-n", &pod.netns, "-o", "link", "show", "eth0"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let word = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    let word = word.context("eth0 has no hardware address")?;
    word.split(':').map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect()
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
