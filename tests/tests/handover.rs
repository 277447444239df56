//! A redirector goes only when another one has its place: rules hold all along, and what is open ends by itself.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs::{self, File},
    process::{Child, Stdio},
};

use sluice_tests::{
    http::{Nginx, curl, nginx},
    manifest, wait,
    world::{Agent, Pod, World, kill, text, tool_path},
};

const KB: &str = "http://10.96.0.1/kb";
const KB_BY_HTTP2: &str = "http://10.96.0.1:81/kb";
const STREAM: &str = "http://10.96.0.1:82/";

/// Who says so in a header is answered by a rule, and by no pod.
const RULES: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: cart, namespace: shop}\nspec:\n  hosts: [cart]\n  http:\n\
    \x20 - match: [{headers: {x-ruled: {exact: \"yes\"}}}]\n    directResponse: {status: 418}\n\
    \x20 - route: [{destination: {host: cart}}]\n";

struct Shop {
    world: World,
    client: Pod,
    external: Vec<Child>,
    _servers: (Nginx, Child),
    agent: Option<Agent>,
}

impl Shop {
    /// Rules hold; the redirector is the agent's, or with `external` ours.
    fn start(flags: &[&str], external: bool) -> Self {
        let mut world = World::new();
        let (pod, client) = (world.pod("v1"), world.pod("client"));
        let servers = (nginx(&world, &pod, 8080), streaming(&world, &pod));
        let ports = ["http:80:8080", "http2:81:8081", "http-stream:82:8090"];
        let service = manifest::service("cart", &["10.96.0.1"], &ports);
        let pods = manifest::pod("v1", "cart", &[&pod.v4.to_string()])
            + &manifest::pod("client", "client", &[&client.v4.to_string()]);
        world.apply("shop", &(service + &pods + RULES));
        let manifests = world.manifests().display().to_string();
        let whose = if external { &["--redirector", "external"][..] } else { &[] };
        let agent = world.spawn_agent(&[&["--manifests", &manifests], whose, flags].concat());
        let mut shop = Self { world, client, external: Vec::new(), _servers: servers, agent: Some(agent) };
        if external {
            shop.another(&[]);
        }
        wait::until("rules hold", || {
            let found = shop.ask("--http1.1", KB);
            if found == 418 { Ok(()) } else { Err((found, shop.world.log())) }
        });
        shop.world.wait_healthy();
        shop
    }

    /// The next agent means something else by what is in CONFIG, as one of another release may: it makes that map anew.
    fn restart_with_other_maps(&mut self) {
        let Some(agent) = self.agent.take() else { return };
        agent.kill();
        let pins = sluice::maps::Pins::at(&self.world.bpffs());
        let noted = aya::maps::MapData::from_pin(pins.map("SCHEMAS")).unwrap();
        let mut noted: aya::maps::HashMap<_, u32, u32> = aya::maps::Map::HashMap(noted).try_into().unwrap();
        let config = sluice::maps::bpf::shape(&pins.map("CONFIG")).unwrap().id;
        noted.insert(config, 77_u32, 0).unwrap();
        let manifests = self.world.manifests().display().to_string();
        self.agent = Some(self.world.spawn_agent(&["--manifests", &manifests]));
        wait::until("CONFIG is another one", || match sluice::maps::bpf::shape(&pins.map("CONFIG")) {
            Some(shape) if shape.id != config => Ok(()),
            other => Err(other),
        });
    }

    fn ask(&self, protocol: &str, to: &str) -> u16 {
        curl(&self.client, &[protocol, "-H", "x-ruled: yes", to]).status
    }

    /// A new connection of either protocol meets the rules.
    fn ruled(&self, case: &str) {
        for (protocol, to) in [("--http1.1", KB), ("--http2-prior-knowledge", KB_BY_HTTP2)] {
            assert_eq!(self.ask(protocol, to), 418, "{case}: {protocol}: {}", self.world.log());
        }
    }

    /// Starts one more redirector, which is ours.
    fn another(&mut self, flags: &[&str]) {
        self.external.push(self.world.spawn_redirector(flags));
    }

    fn redirectors(&self) -> Vec<String> {
        let pids = fs::read_to_string(self.world.node().cgroup.join("cgroup.procs")).unwrap();
        let is_one = |pid: &&str| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("\0redirector\0")
        };
        pids.lines().filter(is_one).map(str::to_owned).collect()
    }

    fn terminate(&self, pid: &str) {
        assert!(self.world.node().command("kill").args(["-TERM", pid]).status().unwrap().success());
    }

    /// A response that has begun and will not end before [`Self::end_streams`].
    fn stream(&self) -> Child {
        let answer = self.world.folder().join("answer");
        let mut command = self.client.command(&tool_path("curl"));
        command.args(["-s", "-N", STREAM]).stdout(File::create(&answer).unwrap());
        let child = command.spawn().unwrap();
        wait::until("the stream begins", || match fs::read_to_string(&answer).unwrap().as_str() {
            "begin\n" => Ok(()),
            other => Err(other.to_owned()),
        });
        child
    }

    fn end_streams(&self) {
        fs::write(self.world.folder().join("over"), "").unwrap();
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.external.iter_mut().for_each(kill);
        kill(&mut self._servers.1);
    }
}

/// A server of streams that go on until a file is there.
fn streaming(world: &World, pod: &Pod) -> Child {
    let script = world.folder().join("stream.sh");
    let over = world.folder().join("over");
    let text = format!(
        "while read -r line && [ \"$line\" != \"$(printf '\\r')\" ]; do :; done\n\
         printf 'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\nbegin\\n'\n\
         while [ ! -e {} ]; do sleep 0.05; done\nprintf 'end\\n'\n",
        over.display()
    );
    fs::write(&script, text).unwrap();
    let mut command = pod.command(&tool_path("socat"));
    command.args(["TCP-LISTEN:8090,fork,reuseaddr", &format!("EXEC:sh {}", script.display())]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn rules_hold_while_a_redirector_that_was_told_to_go_waits_for_a_long_stream() {
    for (case, flags) in [("fail open", &[][..]), ("fail closed", &["--l7-fail-closed"])] {
        let shop = Shop::start(flags, false);
        let old = shop.redirectors();
        assert_eq!(old.len(), 1, "{case}");
        let mut stream = shop.stream();
        shop.terminate(&old[0]);
        wait::until("another one takes over", || {
            shop.ruled(case);
            let gone = shop.world.log().contains("another redirector takes over");
            let now = shop.redirectors();
            if gone && now.len() == 2 { Ok(()) } else { Err((now, shop.world.log())) }
        });
        (0..20).for_each(|_| shop.ruled(case));
        assert!(shop.redirectors().contains(&old[0]), "{case}: the first has something open");
        assert!(stream.try_wait().unwrap().is_none(), "{case}: the stream goes on");
        shop.end_streams();
        assert!(stream.wait().unwrap().success(), "{case}");
        assert_eq!(fs::read_to_string(shop.world.folder().join("answer")).unwrap(), "begin\nend\n", "{case}");
        wait::until("the first ends", || match shop.redirectors() {
            now if now.len() == 1 && now != old => Ok(()),
            now => Err(now),
        });
        shop.ruled(case);
    }
}

#[test]
fn two_redirectors_at_once_lose_nothing() {
    let mut shop = Shop::start(&["--l7-fail-closed"], true);
    let mut command = shop.client.command(&tool_path("h2load"));
    command.args(["--h1", "-D", "12", "-c", "4", KB]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut load = command.spawn().unwrap();
    for round in ["the second", "the third"] {
        shop.another(&[]);
        let count = shop.external.len();
        wait::until(round, || {
            shop.ruled(round);
            match shop.external[count - 2].try_wait().unwrap() {
                Some(status) if status.success() => Ok(()),
                other => Err((other, shop.world.log())),
            }
        });
        (0..10).for_each(|_| shop.ruled(round));
    }
    assert!(load.try_wait().unwrap().is_none(), "there was load all along");
    let output = load.wait_with_output().unwrap();
    let all = text(&output);
    let line = all.lines().find(|line| line.starts_with("requests:")).unwrap_or_else(|| panic!("{all}"));
    assert!(line.contains(" 0 failed, 0 errored, 0 timeout"), "{all}");
    let codes = all.lines().find(|line| line.starts_with("status codes:")).unwrap();
    assert!(codes.contains(" 0 3xx, 0 4xx, 0 5xx") && !codes.contains(": 0 2xx"), "{all}");
}

#[test]
fn without_a_successor_or_an_agent_it_serves_on_for_a_while_and_then_says_so() {
    let mut shop = Shop::start(&[], true);
    let mut first = shop.external.pop().unwrap();
    let pid = first.id().to_string();
    shop.terminate(&pid);
    (0..10).for_each(|_| shop.ruled("nobody has come yet"));
    let status =
        wait::until_within(wait::DEADLINE * 2, "it ends", || first.try_wait().unwrap().ok_or("it runs"));
    assert!(status.success());
    assert_eq!(shop.ask("--http1.1", KB), 200, "balanced by the kernel, without a rule");
    shop.another(&[]);
    wait::until("rules hold again", || match shop.ask("--http1.1", KB) {
        418 => Ok(()),
        other => Err(other),
    });
    // The next one is found by its heartbeat, where there is no agent to tell of it.
    let agent = shop.agent.as_mut().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(agent.pid().cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    wait::until("the agent ends", || agent.ended().ok_or("it runs"));
    let mut second = shop.external.pop().unwrap();
    let log = shop.world.log().len();
    shop.another(&[]);
    wait::until("the third is up", || {
        match shop.world.log()[log..].matches("the redirector is up").count() {
            1 => Ok(()),
            other => Err(other),
        }
    });
    shop.terminate(&second.id().to_string());
    wait::until("the second ends", || {
        shop.ruled("no agent");
        second.try_wait().unwrap().ok_or("it runs")
    });
    assert!(shop.world.log()[log..].contains("another redirector has taken over"));
    shop.ruled("no agent");
}

#[test]
fn one_that_waits_once_replaced_ends_when_it_is_told_or_when_the_other_has_gone() {
    let mut shop = Shop::start(&[], true);
    for (case, is_told) in [("told", true), ("the other is killed", false)] {
        let log = shop.world.log().len();
        let logged = |shop: &Shop, text: &str| {
            wait::until(text, || {
                let log = shop.world.log()[log..].to_owned();
                if log.contains(text) { Ok(()) } else { Err(log) }
            });
        };
        shop.another(&["--once-replaced", "wait"]);
        logged(&shop, "another redirector takes over");
        shop.another(&["--once-replaced", "wait"]);
        logged(&shop, "this process waits for its end");
        let (mut next, mut waits) = (shop.external.pop().unwrap(), shop.external.pop().unwrap());
        assert!(waits.try_wait().unwrap().is_none(), "{case}: nothing would start it again");
        shop.ruled(case);
        if is_told {
            shop.terminate(&waits.id().to_string());
        } else {
            kill(&mut next);
        }
        let status = wait::until(case, || waits.try_wait().unwrap().ok_or("it runs"));
        assert!(status.success(), "{case}");
        if is_told {
            shop.ruled(case);
            shop.external.push(next);
        }
    }
}

#[test]
fn maps_that_an_upgrade_makes_anew_are_the_next_redirectors() {
    let mut shop = Shop::start(&[], false);
    let old = shop.redirectors();
    shop.restart_with_other_maps();
    wait::until("another redirector, and rules", || {
        let now = shop.redirectors();
        let found = shop.ask("--http1.1", KB);
        let is_other = now.iter().any(|pid| !old.contains(pid));
        if is_other && found == 418 { Ok(()) } else { Err((old.clone(), now, found, shop.world.log())) }
    });
    shop.world.wait_healthy();
    shop.ruled("after the upgrade");
    wait::until("the first ends", || match shop.redirectors() {
        now if now.iter().any(|pid| old.contains(pid)) => Err(now),
        _ => Ok(()),
    });
}
