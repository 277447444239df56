//! kube-proxy's chains and the jumps to them, in the kernel's own tables and in those of iptables-nft, both families.
//! Source: `pkg/proxy/iptables/proxier.go` and `pkg/proxy/ipvs/proxier.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::Result;

use super::run;

/// Chains whose whole name is this.
const NAMES: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// Chains of one Service or endpoint each.
const PREFIXES: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];

/// Whether kube-proxy makes a chain of that name. The kubelet's own (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-MARK-DROP,
/// KUBE-IPTABLES-HINT) are not among them.
fn is_ours(chain: &str) -> bool {
    NAMES.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// Removes them; says what.
pub fn clean() -> Result<Vec<String>> {
    let mut told = Vec::new();
    for family in ["iptables", "ip6tables"] {
        // Where the two kinds have names of their own, the plain name is one of them.
        let kinds = [format!("{family}-legacy"), format!("{family}-nft")];
        let mut seen = false;
        for program in &kinds {
            seen |= clean_one(program, &mut told)?;
        }
        if !seen && !clean_one(family, &mut told)? {
            told.push(format!("not looked at: {family} (there is no {family}-save on the PATH)"));
        }
    }
    Ok(told)
}

/// False if there is no such program.
fn clean_one(program: &str, told: &mut Vec<String>) -> Result<bool> {
    let Some(saved) = run(&format!("{program}-save"), &[], "")? else { return Ok(false) };
    let plan = plan(&saved);
    if !plan.script.is_empty() {
        run(&format!("{program}-restore"), &["--noflush"], &plan.script)?;
    }
    let (chains, jumps) = (plan.chains, plan.jumps);
    if chains + jumps > 0 {
        told.push(format!("removed {chains} chains and {jumps} jumps to them ({program})"));
    }
    told.extend(
        plan.kept.iter().map(|chain| {
            format!("left: {chain}, which a rule jumps to that is not kube-proxy's ({program})")
        }),
    );
    Ok(true)
}

/// What to feed to `iptables-restore --noflush`, and what that comes to.
#[derive(Default, PartialEq, Eq, Debug)]
struct Plan {
    script: String,
    chains: usize,
    jumps: usize,
    kept: BTreeSet<String>,
}

/// A table as `iptables-save` prints it.
#[derive(Default)]
struct Table<'s> {
    name: &'s str,
    built_in: BTreeSet<&'s str>,
    ours: BTreeSet<&'s str>,
    /// Chain, and the rule without `-A` in front.
    rules: Vec<(&'s str, &'s str)>,
}

fn plan(saved: &str) -> Plan {
    let mut plan = Plan::default();
    tables(saved).iter().for_each(|table| plan_table(table, &mut plan));
    plan
}

fn tables(saved: &str) -> Vec<Table<'_>> {
    let mut tables: Vec<Table<'_>> = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table { name, ..Table::default() });
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split(' ');
            let name = words.next().unwrap_or_default();
            if words.next() != Some("-") {
                table.built_in.insert(name);
            } else if is_ours(name) {
                table.ours.insert(name);
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            table.rules.push((rule.split(' ').next().unwrap_or_default(), rule));
        }
    }
    tables
}

fn plan_table(table: &Table<'_>, plan: &mut Plan) {
    let kept = kept(table);
    let gone: Vec<&str> = table.ours.iter().copied().filter(|chain| !kept.contains(chain)).collect();
    plan.kept.extend(kept.iter().map(|chain| format!("{chain} of the table {}", table.name)));
    if gone.is_empty() {
        return;
    }
    let is_jump = |(chain, rule): &&(&str, &str)| {
        table.built_in.contains(chain) && target(rule).is_some_and(|to| gone.contains(&to))
    };
    // Writing to a String cannot fail.
    let script = &mut plan.script;
    let _ = writeln!(script, "*{}", table.name);
    // Of a chain that is there this empties it, so that no chain holds another when they go.
    for chain in &gone {
        let _ = writeln!(script, ":{chain} - [0:0]");
    }
    for (_, rule) in table.rules.iter().filter(is_jump) {
        plan.jumps += 1;
        let _ = writeln!(script, "-D {rule}");
    }
    for chain in &gone {
        let _ = writeln!(script, "-X {chain}");
    }
    *script += "COMMIT\n";
    plan.chains += gone.len();
}

/// Chains that somebody else's chain jumps to, and those that these need.
fn kept<'s>(table: &Table<'s>) -> BTreeSet<&'s str> {
    let mut jumps: BTreeMap<&str, Vec<&'s str>> = BTreeMap::new();
    let mut todo = Vec::new();
    for (chain, rule) in &table.rules {
        let Some(to) = target(rule).filter(|to| table.ours.contains(to)) else { continue };
        if table.ours.contains(chain) {
            jumps.entry(chain).or_default().push(to);
        } else if !table.built_in.contains(chain) {
            todo.push(to);
        }
    }
    let mut kept = BTreeSet::new();
    while let Some(chain) = todo.pop() {
        if kept.insert(chain) {
            todo.extend(jumps.get(chain).into_iter().flatten());
        }
    }
    kept
}

/// Where a rule jumps or goes to. Words in quotes are comments, which may look like anything.
fn target(rule: &str) -> Option<&str> {
    let mut quoted = false;
    let mut before = "";
    for word in rule.split(' ') {
        if !quoted && matches!(before, "-j" | "-g") {
            return Some(word);
        }
        let quotes = word.matches('"').count() - word.matches("\\\"").count();
        quoted ^= quotes % 2 == 1;
        before = if quoted || quotes > 0 { "" } else { word };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_words_and_not_comments() {
        for (rule, want) in [
            ("PREROUTING -j KUBE-SERVICES", Some("KUBE-SERVICES")),
            (
                "PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
                Some("KUBE-SERVICES"),
            ),
            ("FORWARD -m comment --comment \"a -j KUBE-SERVICES b\" -j ACCEPT", Some("ACCEPT")),
            ("FORWARD -m comment --comment \"a \\\" -j KUBE-SERVICES\" -g MINE", Some("MINE")),
            ("FORWARD -m comment --comment \"-j\" -j DROP", Some("DROP")),
            ("INPUT -p tcp", None),
        ] {
            assert_eq!(target(rule), want, "{rule}");
        }
    }

    #[test]
    fn only_its_own_chains_go_and_only_jumps_to_them() {
        let saved = "# Generated\n*nat\n:PREROUTING ACCEPT [1:60]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n\
                     :KUBE-KUBELET-CANARY - [0:0]\n:MINE - [0:0]\n-A PREROUTING -s 10.0.0.0/8 -j MINE\n\
                     -A PREROUTING -m comment --comment \"portals\" -j KUBE-SERVICES\n\
                     -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-A\n-A MINE -j RETURN\nCOMMIT\n\
                     *filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n";
        let script = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n\
                      -D PREROUTING -m comment --comment \"portals\" -j KUBE-SERVICES\n\
                      -X KUBE-SERVICES\n-X KUBE-SVC-A\nCOMMIT\n";
        let plan = plan(saved);
        assert_eq!(plan.script, script);
        assert_eq!((plan.chains, plan.jumps, plan.kept.len()), (2, 1, 0));
        assert_eq!(super::plan(""), Plan::default());
    }

    #[test]
    fn a_chain_that_somebody_else_jumps_to_stays_with_what_it_needs() {
        let saved = "*nat\n:OUTPUT ACCEPT [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-A - [0:0]\n:KUBE-SVC-B - [0:0]\n\
                     :MINE - [0:0]\n-A KUBE-SVC-A -j KUBE-SEP-A\n-A MINE -j KUBE-SVC-A\nCOMMIT\n";
        let plan = plan(saved);
        assert_eq!(plan.script, "*nat\n:KUBE-SVC-B - [0:0]\n-X KUBE-SVC-B\nCOMMIT\n");
        let kept = ["KUBE-SEP-A of the table nat", "KUBE-SVC-A of the table nat"];
        assert_eq!(plan.kept, kept.map(str::to_owned).into());
    }
}
