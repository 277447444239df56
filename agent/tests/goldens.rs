//! YAML in, map contents out: `agent/tests/goldens/NAME.yaml` must lead to `NAME.txt`, in whatever order its objects
//! come and whichever writes fail on the way. `SLUICE_BLESS=1` writes the files anew; then read the difference.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use sluice::{
    compile,
    inspect::{excluded_name, kind_name, state_name},
    manifests::{FileContents, assemble, read_text},
    maps::{Op, Sizes, Tables, WriteError, Writer},
    model::{Change, EndpointState, Store},
    reconcile::{Reconciler, dialled},
};
use sluice_common::layout::{Excluded, FrontendKind, FrontendValue, SlotValue};

const NODE: &str = "node-1";

/// Takes writes, and refuses each `refuse`th.
struct Table {
    tables: Tables,
    refuse: Option<usize>,
    attempts: usize,
}

impl Writer for Table {
    fn write(&mut self, op: &Op) -> Result<(), WriteError> {
        self.attempts += 1;
        if self.refuse.is_some_and(|refuse| self.attempts.is_multiple_of(refuse)) {
            return Err(WriteError::Refused { map: "TEST", source: std::io::Error::other("refused") });
        }
        self.tables.apply(op);
        Ok(())
    }
}

fn contents(file: &Path) -> FileContents {
    read_text(file, &fs::read(file).unwrap())
}

/// What the maps hold in the end, when `changes` come one after the other.
fn run(changes: Vec<Change>, refuse: Option<usize>) -> Tables {
    let mut store = Store::default();
    let mut table = Table { tables: Tables::default(), refuse, attempts: 0 };
    let mut reconciler = Reconciler::new(Tables::default(), Sizes::default());
    let mut round = |store: &mut Store, now_ns: u64| {
        let dirty = store.take_dirty();
        let compiled = dirty.into_iter().map(|name| (name.clone(), compile::service(store, &name))).collect();
        let outcome = reconciler.reconcile(&mut table, compiled, now_ns);
        outcome.failed.keys().for_each(|name| store.mark(name.clone()));
        let resting = reconciler.collect(&mut table, now_ns).unwrap_or(true);
        outcome.failed.is_empty() && !resting
    };
    for change in changes {
        store.apply(change);
        round(&mut store, 0);
    }
    let settled = (1..200).any(|second| round(&mut store, second * 2_000_000_000));
    assert!(settled, "does not settle: {refuse:?}");
    table.tables
}

/// The contents without ids: equal for equal states.
fn dump(tables: &Tables) -> String {
    let mut lines = BTreeMap::new();
    for (key, value) in &tables.frontends {
        let service = &tables.services[&value.service_id];
        let dialled = dialled(key).unwrap();
        let kind = kind_name(FrontendKind::try_from(value.kind).unwrap());
        let mut text = format!(
            "{dialled} {kind} {}/{} port {:?} flags {:#x} affinity {} s\n",
            service.namespace.as_str(),
            service.name.as_str(),
            service.port_name.as_str(),
            value.flags,
            value.affinity_timeout_s
        );
        for (range, start, count) in ranges(value, service.range_start, service.range_count) {
            // Within a range the order is that of the ids, which depend on what came first.
            let slots = (start..start + count).map(|index| &tables.slots[&index]);
            let slots = slots.filter(|slot| range != "excluded" || slot.excluded != 0);
            let mut endpoints: Vec<String> = slots.map(|slot| endpoint(tables, slot)).collect();
            endpoints.sort();
            for endpoint in endpoints {
                writeln!(text, "  {range:<8} {endpoint}").unwrap();
            }
        }
        lines.insert(*key, text);
    }
    let mut sorted: Vec<String> = lines.into_values().collect();
    sorted.sort();
    let sums = [tables.frontends.len(), tables.services.len(), tables.backends.len(), tables.nodes.len()];
    sorted.push(format!(
        "{} frontends, {} services, {} backends, {} nodes\n",
        sums[0], sums[1], sums[2], sums[3]
    ));
    sorted.concat()
}

fn ranges(value: &FrontendValue, start: u32, count: u32) -> [(&'static str, u32, u32); 3] {
    [
        ("cluster", value.cluster_start, value.cluster_count),
        ("local", value.local_start, value.local_count),
        ("excluded", start, count),
    ]
}

fn endpoint(tables: &Tables, slot: &SlotValue) -> String {
    let backend = &tables.backends[&slot.backend_id];
    let address = SocketAddr::new(IpAddr::from(backend.addr), u16::from_be(backend.port_be));
    let state = state_name(EndpointState::try_from(slot.state).unwrap());
    let why =
        Excluded::try_from(slot.excluded).map_or(String::new(), |why| format!(", {}", excluded_name(why)));
    let node = tables.nodes.get(&backend.node_id).map_or("no node", |node| node.name.as_str());
    format!("{address} {state} on {node}{}{why}", if slot.local == 0 { "" } else { " (here)" })
}

#[test]
fn every_golden_holds_in_any_order_and_with_failing_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml"));
    assert!(files.len() >= 3, "goldens are there");
    for file in files {
        let contents = contents(&file);
        let findings: Vec<String> = contents.findings.iter().map(|finding| finding.message.clone()).collect();
        let (changes, more) = assemble([&contents].into_iter(), NODE);
        let listing = |reverse: bool| {
            let mut changes = changes.clone();
            if reverse {
                changes.reverse();
                for change in &mut changes {
                    match change {
                        Change::AllServices(services) => services.reverse(),
                        Change::AllSlices(slices) => slices.reverse(),
                        Change::AllPods(pods) => pods.reverse(),
                        Change::AllRules(_, rules) => rules.reverse(),
                        Change::AllOwnPods(pods) => pods.reverse(),
                        Change::AllServiceCidrs(all) => all.reverse(),
                        Change::Pod(..)
                        | Change::ServiceCidr(..)
                        | Change::Rule(..)
                        | Change::NoPods
                        | Change::OwnPod(..)
                        | Change::Service(..)
                        | Change::Slice(..)
                        | Change::Node(_)
                        | Change::NoNode
                        | Change::Partial(_) => {}
                    }
                }
            }
            changes
        };
        let want = file.with_extension("txt");
        let mut got = dump(&run(listing(false), None));
        for message in findings.iter().chain(more.iter().map(|finding| &finding.message)) {
            let _always_fits = writeln!(got, "finding: {message}");
        }
        if std::env::var_os("SLUICE_BLESS").is_some() {
            fs::write(&want, &got).unwrap();
        }
        let expected = fs::read_to_string(&want).unwrap_or_default();
        assert_eq!(got, expected, "{} (SLUICE_BLESS=1 writes it anew)", want.display());
        let plain = dump(&run(listing(false), None));
        for (reverse, refuse) in [(true, None), (false, Some(10)), (true, Some(10)), (false, Some(3))] {
            assert_eq!(
                dump(&run(listing(reverse), refuse)),
                plain,
                "{}: {reverse} {refuse:?}",
                file.display()
            );
        }
    }
}
