//! What happens in the machine: the steps, and the script that runs them.

/// Emulated, everything takes this many times as long at most.
pub const PATIENCE: u32 = 10;
/// Starts each line that is for us; the rest is what steps print.
pub const MARK: &str = "@@";

/// One thing to try.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What it shows, as the table says it.
    pub name: &'static str,
    /// The file of tests, and the test; `None` for the command alone.
    pub test: Option<(&'static str, &'static str)>,
}

const fn test(name: &'static str, file: &'static str, test: &'static str) -> Step {
    Step { name, test: Some((file, test)) }
}

/// Every program is verified and loaded; shown as counts of instructions.
pub const PROGRAMS: &str = "programs load";

/// In the order in which they run.
pub const STEPS: [Step; 14] = [
    Step { name: PROGRAMS, test: None },
    test(
        "ClusterIP by sockets",
        "sockets",
        "pods_and_host_reach_every_endpoint_and_see_the_address_they_dialled",
    ),
    test(
        "NodePort, LoadBalancer, ClusterIP from outside",
        "packets",
        "a_client_outside_reaches_pods_by_every_address_of_a_service",
    ),
    test("restart loses no connection", "restart", "killing_and_replacing_the_agent_loses_no_connection"),
    test("ECONNREFUSED without endpoints", "sockets", "a_service_without_endpoints_refuses"),
    test("pods without hooks", "packets", "pods_whose_sockets_have_no_hook_reach_services_by_packets"),
    test(
        "DSR",
        "packets",
        "with_direct_server_return_pods_of_other_nodes_see_the_client_and_answer_it_themselves",
    ),
    test(
        "rules: steered to the redirector and back",
        "steering",
        "pods_and_the_node_are_steered_at_every_address_and_back_when_the_rules_go",
    ),
    test("XDP, and cleanup", "restart_packets", "cleanup_detaches_everything_from_devices"),
    test("a bond, and a VLAN on it", "bonds", "services_are_reached_by_a_bond_and_by_a_vlan_on_it"),
    test(
        "NodePorts on the node, and nobody else binds them",
        "services",
        "node_ports_are_served_on_the_nodes_addresses_and_on_its_own_loopback",
    ),
    test(
        "sockets are told that their backend is gone",
        "services",
        "sockets_are_told_when_their_backend_is_gone_and_not_before",
    ),
    test(
        "one UDP socket, several Services",
        "sockets",
        "one_udp_socket_talks_to_services_and_pods_and_sees_each_as_it_dialled_it",
    ),
    test(
        "`sluice status` says what the kernel lacks",
        "health",
        "status_names_the_kernel_and_what_stands_in_for_what_it_lacks",
    ),
];

/// `/init`: mounts, modules, then each step with its exit code on a line of ours; `words` says how to run one.
pub fn script(steps: &[Step], modules: &[String], words: impl Fn(&Step) -> String) -> String {
    let mut text = String::from(
        "#!/bin/sh\nb=/bin/busybox\nexport PATH=/bin LD_LIBRARY_PATH=/lib HOME=/tmp TMPDIR=/tmp RUST_BACKTRACE=1\n",
    );
    text += &format!("export SLUICE_BIN=/bin/sluice SLUICE_PATIENCE={PATIENCE}\n");
    for (kind, folder) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        text += &format!("$b mount -t {kind} {kind} {folder}\n");
    }
    for module in modules {
        text += &format!("$b insmod /modules/{module}.ko || echo 'no module {module}'\n");
    }
    text += &format!("ip link set lo up\necho \"{MARK} booted $($b uname -r)\"\n");
    for (index, step) in steps.iter().enumerate() {
        text += &format!("echo '{MARK} begin {index}'\n{}\necho \"{MARK} end {index} $?\"\n", words(step));
    }
    text + &format!("echo '{MARK} over'\n$b reboot -f\n")
}

/// A line of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// The script runs.
    Booted,
    /// The step begins.
    Begin(usize),
    /// The step ended, with that exit code.
    End(usize, i32),
    /// All steps ended.
    Over,
}

/// What a line of the console says to us.
pub fn mark(line: &str) -> Option<Mark> {
    // The console may have half a line of the kernel's before it.
    let (_, rest) = line.split_once(MARK)?;
    let mut words = rest.split_whitespace();
    let kind = words.next()?;
    let mut number = || words.next()?.parse::<i32>().ok();
    Some(match kind {
        "booted" => Mark::Booted,
        "begin" => Mark::Begin(usize::try_from(number()?).ok()?),
        "end" => Mark::End(usize::try_from(number()?).ok()?, number()?),
        "over" => Mark::Over,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_and_nothing_else_is() {
        for (line, want) in [
            ("@@ booted 6.1.0", Some(Mark::Booted)),
            ("@@ begin 3", Some(Mark::Begin(3))),
            ("[ 1.2] usb@@ end 3 101\r", Some(Mark::End(3, 101))),
            ("@@ over", Some(Mark::Over)),
            ("@@ end 3", None),
            ("running 1 test", None),
        ] {
            assert_eq!(mark(line), want, "{line}");
        }
    }

    #[test]
    fn every_step_names_a_test_that_there_is() {
        for (file, test) in STEPS.iter().filter_map(|step| step.test) {
            let path = crate::shell::workspace().join(format!("tests/tests/{file}.rs"));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(text.contains(&format!("]\nfn {test}()")), "{} has no test {test}", path.display());
        }
    }

    #[test]
    fn the_script_ends_with_the_mark_that_a_panic_never_prints() {
        let text = script(&STEPS, &["veth".to_owned()], |step| format!("run {}", step.name.len()));
        assert!(text.contains("insmod /modules/veth.ko"));
        assert!(text.ends_with("echo '@@ over'\n$b reboot -f\n"));
        assert_eq!(text.matches("@@ begin").count(), STEPS.len());
    }
}
