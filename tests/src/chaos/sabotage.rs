//! Shows that chaos finds what is lost: events in which sessions must be.

use anyhow::{Result, bail};
use aya::maps::{HashMap, Map, MapData};
use sluice::maps::Pins;
use sluice_common::layout::{FlowKey, FlowValue};

use super::{
    Cluster,
    events::{self, Event, event},
    http2::CLIENTS,
    through,
};
use crate::world::Pod;

/// An event, and how many losses with one of these words there must be at least.
type Wanted = (Event, &'static [(&'static [&'static str], usize)]);

/// What the client outside dials by node-1.
const TCP_OUTSIDE: &[&str] = &["192.168.50.11:30080", "[fd00:50::11]:30080", "203.0.113.10:80", "50::10]:80"];
const UDP_OUTSIDE: &[&str] = &["192.168.50.11:30053", "[fd00:50::11]:30053", "203.0.113.10:53", "50::10]:53"];

fn all() -> [Wanted; 4] {
    [
        (
            event("node-1 forgets connections through packets, twice", |cluster, go_on| {
                forget(cluster)?;
                go_on();
                forget(cluster)
            }),
            &[(TCP_OUTSIDE, 1), (UDP_OUTSIDE, 1)],
        ),
        (
            event("a redirector goes, though none should", |cluster, _| events::redirector_goes(cluster)),
            &[(&["a connection of HTTP/2"], CLIENTS)],
        ),
        (
            event("what node-1 has open is reset", |cluster, _| reset(&cluster.world.node(1).host)),
            // Of each client a request, or the connection between two of them.
            &[(&["HTTP/2 to"], CLIENTS), (&["a long response"], CLIENTS), (&["a session of"], 1)],
        ),
        (
            event("what a client inside has open is reset", |cluster, _| reset(&cluster.inside)),
            &[(&["10.96.0.1:80"], 1), (&["[fd00:10:96::1]:80"], 1), (&["HTTP/2 to"], CLIENTS)],
        ),
    ]
}

/// Runs them.
///
/// # Errors
/// The cluster does not come up, or something was lost without a word.
pub fn sabotage(say: impl FnMut(&str)) -> Result<()> {
    let (events, wanted): (Vec<_>, Vec<_>) = all().into_iter().unzip();
    let (_, _, losses) = through(|_| events, say)?;
    for ((name, lost), wanted) in losses.iter().zip(wanted) {
        for (words, count) in wanted {
            let has_one = |loss: &&String| words.iter().any(|word| loss.contains(word));
            let found = lost.iter().filter(has_one).count();
            if found < *count {
                bail!("{name}: {found} losses of {words:?} were found, of {count} at least: {lost:#?}");
            }
        }
    }
    Ok(())
}

fn forget(cluster: &Cluster) -> Result<()> {
    const KEY: usize = size_of::<FlowKey>();
    let pin = Pins::at(&cluster.world.node(1).bpffs()).map("FLOWS");
    let map = Map::LruHashMap(MapData::from_pin(pin)?);
    let mut flows: HashMap<MapData, [u8; KEY], [u8; size_of::<FlowValue>()]> = map.try_into()?;
    let keys: Vec<_> = flows.keys().filter_map(Result::ok).collect();
    for key in &keys {
        let _gone_already = flows.remove(key);
    }
    if keys.is_empty() { bail!("there was no connection to forget") } else { Ok(()) }
}

/// Ends every TCP connection of a network namespace as if by its own kernel.
fn reset(pod: &Pod) -> Result<()> {
    let output = pod.command("ss").args(["-K", "-t", "state", "established"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.lines().count() < 2 {
        bail!("ss -K reset nothing: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
