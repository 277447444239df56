//! Whatever happened before, the maps say what a fresh start would have written. `SLUICE_SEED` repeats a run (as far as
//! time allows: what the agent is at when it is killed is chance), `SLUICE_BATCHES` makes it longer.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use sluice::maps::{Pins, SPECS};
use sluice_tests::{
    canonical,
    cluster::Cluster,
    extras::extras,
    manifest,
    reference::{self, Random, mutate, random::PODS},
    wait,
    world::Agent,
};

/// Small enough for a flood to overflow the first of them that it comes to; `failing_writes.rs` has writes that the kernel
/// refuses.
const SIZES: [&str; 10] = [
    "--max-frontends",
    "64",
    "--max-slots",
    "160",
    "--max-backends",
    "32",
    "--max-services",
    "48",
    "--max-nodes",
    "16",
];
/// In each batch; two batches have room for every fault.
const ROUNDS: usize = FAULTS.len() / 2;
const BATCHES: u32 = 2;
/// A frozen API server is given up after some seconds only.
const PATIENCE: Duration = Duration::from_secs(60);
const FLOOD: u32 = 60;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Watches are ended, and what happened is forgotten: 410, a new listing.
    Compact,
    /// Watches are ended.
    Drop,
    /// Lists of one kind hang.
    Stall(&'static str),
    /// The API server is away.
    Down,
    /// It takes connections and says nothing.
    Freeze,
    /// Packets from and to it are lost: connections are open at one end, and nothing says that they are not at the other.
    HalfOpen,
    /// It says 500 to whoever asks for one kind.
    Error500(&'static str),
    /// It says 429.
    Throttle,
    /// It says 503, and to come again tomorrow.
    Unavailable,
    /// A list of several pages is forgotten between two of them.
    ForgetPages,
    /// The agent is killed, at whatever it does.
    Kill,
    /// The agent is killed, and a map's pin is removed.
    LoseMap,
    /// The agent is killed, and every pin is removed.
    LoseAll,
    /// A link is removed under the running agent.
    LoseLink,
    /// The agent is killed; the next one has larger maps, so that all of them are made anew.
    Resize,
    /// More objects than the maps hold: writes fail.
    Flood,
    /// Events come again, out of order.
    Repeat,
    /// An object is listed, and gone before the watch begins.
    Vanish,
}

const FAULTS: [Fault; 20] = [
    Fault::Compact,
    Fault::Drop,
    Fault::Stall("Service"),
    Fault::Stall("EndpointSlice"),
    Fault::Down,
    Fault::Freeze,
    Fault::HalfOpen,
    Fault::Error500("Service"),
    Fault::Error500("EndpointSlice"),
    Fault::Throttle,
    Fault::Unavailable,
    Fault::ForgetPages,
    Fault::Kill,
    Fault::LoseMap,
    Fault::LoseAll,
    Fault::LoseLink,
    Fault::Resize,
    Fault::Flood,
    Fault::Repeat,
    Fault::Vanish,
];

/// What happens, and what there is of it.
struct Story {
    cluster: Cluster,
    agent: Option<Agent>,
    random: Random,
    model: reference::Cluster,
    known: BTreeSet<(&'static str, String)>,
    sizes: Vec<String>,
    markers: u32,
    /// What is still to come of all faults, in random order.
    to_come: Vec<Fault>,
}

impl Story {
    /// Each comes before any comes again.
    fn next_fault(&mut self) -> Fault {
        if self.to_come.is_empty() {
            self.to_come = FAULTS.to_vec();
            for index in (1..FAULTS.len()).rev() {
                self.to_come.swap(index, self.random.below(index as u64 + 1) as usize);
            }
        }
        self.to_come.pop().expect("there are faults")
    }

    fn put(&mut self, kind: &'static str, name: &str, text: &str) {
        self.known.insert((kind, name.to_owned()));
        self.cluster.api.apply(text);
    }

    fn delete(&mut self, kind: &'static str, name: &str) {
        if self.known.remove(&(kind, name.to_owned())) {
            self.cluster.api.delete(kind, name);
        }
    }

    fn change(&mut self) {
        let pods = |octet: u8| (0..PODS as u8).map(move |pod| [10, 244, octet, pod + 1]);
        let v4: Vec<IpAddr> = pods(100).map(IpAddr::from).collect();
        let v6: Vec<IpAddr> = (0..PODS).map(|pod| format!("fd00:10::{}", pod + 1).parse().unwrap()).collect();
        for number in mutate(&mut self.model, &mut self.random) {
            let service = self.model.services.iter().find(|service| service.number == number).cloned();
            let name = format!("random/service-{number}");
            let Some(service) = service else {
                self.delete("Service", &name);
                continue;
            };
            self.put("Service", &name, &service.object().to_string());
            for slice in service.slices(&v4, &v6) {
                let name = format!("random/{}", slice["metadata"]["name"].as_str().unwrap());
                self.put("EndpointSlice", &name, &slice.to_string());
            }
        }
        let extras = extras(&self.cluster);
        let (kind, name, text) = &extras[self.random.below(extras.len() as u64) as usize];
        if *kind != "Node" && self.random.once_in(3) {
            self.delete(kind, name);
        } else {
            self.put(kind, name, text);
        }
    }

    fn start(&mut self) {
        let flags: Vec<&str> = self.sizes.iter().map(String::as_str).collect();
        let kubeconfig = self.cluster.api.kubeconfig();
        let flags = [&["--kubeconfig", &kubeconfig, "--api-silence", "2"], flags.as_slice()].concat();
        self.agent = Some(self.cluster.world.spawn_agent(&flags));
    }

    fn restart(&mut self) {
        drop(self.agent.take());
        self.start();
    }

    fn begin(&mut self, fault: Fault) {
        let pins = Pins::at(&self.cluster.world.bpffs());
        match fault {
            Fault::Compact => {
                self.cluster.api.drop_watches();
                self.cluster.api.compact();
            }
            Fault::Drop => self.cluster.api.drop_watches(),
            Fault::Stall(kind) => {
                self.cluster.api.stall(kind, true);
                self.cluster.api.compact();
            }
            Fault::Down => self.cluster.api.down(),
            Fault::Freeze => self.cluster.api.freeze(true),
            Fault::HalfOpen => self.cluster.api.cut(true),
            Fault::Error500(kind) => {
                self.cluster.api.fail(kind, true);
                self.cluster.api.drop_watches();
            }
            Fault::Throttle => {
                self.cluster.api.drop_watches();
                self.cluster.api.throttle(5);
            }
            Fault::Unavailable => {
                self.cluster.api.drop_watches();
                self.cluster.api.unavailable(Some(86_400));
            }
            Fault::ForgetPages => {
                self.cluster.api.forget_between_pages(3);
                self.cluster.api.drop_watches();
                self.cluster.api.compact();
            }
            Fault::Flood => {
                for index in 0..FLOOD {
                    let (name, ip) = (format!("flood-{index}"), format!("10.98.0.{}", index + 1));
                    self.cluster.api.apply(&manifest::service(&name, &[&ip], &["http:80:8080"]));
                    let slice = self.cluster.slice(&name, 1, &[]);
                    let pod = self.cluster.pods[0].0.v4.to_string();
                    let slice = slice.replace(&pod, &format!("10.244.98.{}", index + 1));
                    self.cluster.api.apply(&slice.replace("node-1", &format!("node-{index}")));
                }
            }
            Fault::Kill => self.restart(),
            Fault::LoseMap => {
                drop(self.agent.take());
                let spec = SPECS[self.random.below(SPECS.len() as u64) as usize];
                // An earlier fault may have been faster.
                let _gone_already = std::fs::remove_file(pins.map(spec.name));
                self.start();
            }
            Fault::LoseAll => {
                drop(self.agent.take());
                for folder in ["maps", "links"] {
                    let _not_there_yet = std::fs::remove_dir_all(pins.root().join(folder));
                }
                self.start();
            }
            Fault::Resize => {
                self.sizes[3] = (160 + 8 * self.random.below(4)).to_string();
                self.restart();
            }
            Fault::Repeat => self.cluster.api.repeat(20),
            Fault::Vanish => {
                let listed =
                    self.known.iter().filter(|(kind, _)| ["Service", "EndpointSlice"].contains(kind));
                let listed: Vec<_> = listed.cloned().collect();
                if !listed.is_empty() {
                    let (kind, name) = listed[self.random.below(listed.len() as u64) as usize].clone();
                    self.cluster.api.vanish_once_listed(kind, &name);
                    self.cluster.api.drop_watches();
                    self.cluster.api.compact();
                    wait::until_within(PATIENCE, "the listing", || {
                        if self.cluster.api.is_vanishing() { Err(self.cluster.world.log()) } else { Ok(()) }
                    });
                    self.known.remove(&(kind, name));
                }
            }
            Fault::LoseLink => {
                let hook = self.random.of(&sluice::loader::HOOKS);
                let _not_there_yet = std::fs::remove_file(pins.link(hook));
            }
        }
    }

    /// Takes back what lasts.
    fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Stall(kind) => self.cluster.api.stall(kind, false),
            Fault::Down => self.cluster.api.up(),
            Fault::Freeze => self.cluster.api.freeze(false),
            Fault::HalfOpen => self.cluster.api.cut(false),
            Fault::Error500(kind) => self.cluster.api.fail(kind, false),
            Fault::Unavailable => self.cluster.api.unavailable(None),
            Fault::Flood => {
                wait::until_within(PATIENCE, "writes that fail", || {
                    let problems = self.cluster.world.json(&["status"])["problems"].to_string();
                    if problems.contains("is full (") { Ok(()) } else { Err(problems) }
                });
                for index in 0..FLOOD {
                    self.cluster.api.delete("Service", &format!("shop/flood-{index}"));
                    self.cluster.api.delete("EndpointSlice", &format!("shop/flood-{index}-1"));
                }
            }
            Fault::Repeat
            | Fault::Vanish
            | Fault::Compact
            | Fault::Drop
            | Fault::Throttle
            | Fault::ForgetPages
            | Fault::Kill
            | Fault::LoseMap
            | Fault::LoseAll
            | Fault::LoseLink
            | Fault::Resize => {}
        }
    }

    /// Waits until the agent has seen everything up to now: events of a kind come in order.
    fn catch_up(&mut self) {
        self.markers += 1;
        let ip = format!("10.99.0.{}", self.markers);
        self.put("Service", "shop/marker", &manifest::service("marker", &[&ip], &["http:80:8080"]));
        let slice = self.cluster.slice("marker", 1 + (self.markers as usize % 2), &[]);
        self.put("EndpointSlice", "shop/marker-1", &slice);
        let wanted = 1 + (self.markers as usize % 2);
        wait::until_within(PATIENCE, "the marker", || {
            let output = self.cluster.world.sluice(&["explain", &format!("{ip}:80"), "-o", "json"]);
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let right = answer["endpoints"].as_array().map(Vec::len) == Some(wanted);
            if right { Ok(()) } else { Err((answer, self.cluster.world.log())) }
        });
        wait::until_within(PATIENCE, "a healthy agent", || {
            let status = self.cluster.world.json(&["status"]);
            if status["healthy"] == true { Ok(()) } else { Err((status, self.cluster.world.log())) }
        });
    }

    /// The contents, once nothing rests any more.
    fn contents(&self) -> Vec<String> {
        wait::until("maps at rest", || {
            canonical::contents(&self.cluster.world).map_err(|error| format!("{error:#}"))
        })
    }
}

#[test]
fn after_any_changes_and_faults_the_maps_are_those_of_a_fresh_start() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u32>().expect("a number"));
    let seed = number("SLUICE_SEED").unwrap_or_else(std::process::id);
    let batches = number("SLUICE_BATCHES").unwrap_or(BATCHES);
    println!("SLUICE_SEED={seed} SLUICE_BATCHES={batches}");
    let mut story = Story {
        cluster: Cluster::new(),
        agent: None,
        random: Random::new(seed.into()),
        model: reference::Cluster::default(),
        known: BTreeSet::new(),
        sizes: SIZES.map(str::to_owned).to_vec(),
        markers: 0,
        to_come: Vec::new(),
    };
    story.start();
    for batch in 0..batches {
        let mut faults = Vec::new();
        // Every second batch by a server that streams its lists, from the agent's next start on.
        story.cluster.api.version(if batch % 2 == 1 { 34 } else { 26 }, false);
        for _ in 0..ROUNDS {
            let fault = story.next_fault();
            faults.push(fault);
            story.change();
            story.begin(fault);
            story.change();
            story.end(fault);
            if story.random.once_in(3) {
                story.catch_up();
            }
        }
        story.catch_up();
        let after = story.contents();
        drop(story.agent.take());
        let cleanup = story.cluster.world.sluice(&["cleanup"]);
        assert!(cleanup.status.success(), "{cleanup:?}");
        story.start();
        story.cluster.world.wait_healthy();
        // Some of it comes in the wake of the rest, such as ports that pods declare: watched once a Service asks for them.
        wait::until_within(PATIENCE, "the contents of a fresh start", || {
            let difference = canonical::difference(&after, &story.contents());
            if difference.is_empty() {
                return Ok(());
            }
            Err(format!(
                "SLUICE_SEED={seed}, batch {batch}, {faults:?}; left after these, right of a fresh start\n{difference}"
            ))
        });
        println!("batch {batch}: {} entries, {faults:?}", after.len());
    }
}
