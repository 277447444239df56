//! Flags from the environment: `SLUICE_` and the flag's name, as a ConfigMap gives them to a pod. A word on the command line
//! comes first, and an empty variable is none.

use std::{collections::BTreeSet, env};

use clap::{Arg, Command};

/// The commands whose flags have a variable. Other commands take those that they share with them from there too, so that
/// `sluice status` in the agent's container asks that agent.
const CONFIGURED: [&str; 2] = ["run", "redirector"];

/// `command` with the variables of its flags.
pub fn added(command: Command) -> Command {
    let flags = flags(&command);
    command.mut_subcommands(|one| {
        one.mut_args(|arg| match arg.get_long() {
            Some(flag) if flags.contains(flag) && arg.get_env().is_none() => with_variable(arg),
            Some(_) | None => arg,
        })
    })
}

/// Flags that can be configured, without dashes in front.
fn flags(command: &Command) -> BTreeSet<String> {
    let configured = CONFIGURED.iter().filter_map(|name| command.find_subcommand(name));
    configured.flat_map(Command::get_arguments).filter_map(Arg::get_long).map(str::to_owned).collect()
}

fn variable(flag: &str) -> String {
    format!("SLUICE_{}", flag.to_uppercase().replace('-', "_"))
}

fn with_variable(arg: Arg) -> Arg {
    let name = variable(arg.get_long().unwrap_or_default());
    if env::var_os(&name).is_some_and(|value| value.is_empty()) { arg } else { arg.env(name) }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// Set by the DaemonSet itself, from the node that it runs on.
    const BY_THE_POD: &str = "node-name";

    #[test]
    fn the_config_map_has_every_flag_and_nothing_else() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
        let text = fs::read_to_string(base.join("kustomization.yaml")).unwrap();
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let literals = value["configMapGenerator"][0]["literals"].as_array().unwrap();
        let cluster = fs::read_to_string(base.join("cluster.env")).unwrap();
        let cluster = cluster.lines().filter(|line| !line.starts_with('#'));
        let literals: Vec<&str> =
            literals.iter().map(|literal| literal.as_str().unwrap()).chain(cluster).collect();
        let (names, values): (BTreeSet<_>, Vec<_>) =
            literals.iter().map(|literal| literal.split_once('=').unwrap()).unzip();
        let flags = flags(&Cli::command());
        let wanted: BTreeSet<String> =
            flags.iter().filter(|flag| *flag != BY_THE_POD).map(|flag| variable(flag)).collect();
        assert_eq!(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), wanted);
        // What is written there is what the flags take.
        let given = literals.iter().zip(values).filter(|(_, value)| !value.is_empty());
        for (literal, value) in given {
            let name = literal.split_once('=').unwrap().0;
            let flag = flags.iter().find(|flag| variable(flag) == name).unwrap();
            // Of the agent's, the redirector's, or both.
            let takes = |command: &str| {
                Cli::command().try_get_matches_from(["sluice", command, &format!("--{flag}={value}")])
            };
            let taken = takes("run").or_else(|_| takes("redirector"));
            taken.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn shared_flags_have_the_same_variable_everywhere_and_others_none() {
        let command = added(Cli::command());
        let variable_of = |name: &str, flag: &str| {
            let command = command.find_subcommand(name).unwrap();
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag)).unwrap();
            arg.get_env().map(|name| name.to_string_lossy().into_owned())
        };
        for (name, flag, want) in [
            ("run", "nodeport-addresses", Some("SLUICE_NODEPORT_ADDRESSES")),
            ("run", "node-name", Some("NODE_NAME")),
            ("redirector", "access-log", Some("SLUICE_ACCESS_LOG")),
            ("status", "admin", Some("SLUICE_ADMIN")),
            ("cleanup", "bpffs", Some("SLUICE_BPFFS")),
            ("status", "output", None),
        ] {
            assert_eq!(variable_of(name, flag).as_deref(), want, "{name} --{flag}");
        }
    }
}
