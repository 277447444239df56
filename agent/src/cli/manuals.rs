//! What the command line says of itself: completions for shells, man pages, a page of every command and flag.

use std::{fmt::Write as _, fs, io, path::Path};

use anyhow::{Context as _, Result};
use clap::{Arg, Command};
use clap_complete::Shell;

use crate::model::annotations;

/// Prints what makes `shell` complete our commands and flags.
pub fn completions(mut command: Command, shell: Shell) {
    clap_complete::generate(shell, &mut command, "sluice", &mut io::stdout());
}

/// Writes a man page for each command into `folder`.
pub fn man(command: Command, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    clap_mangen::generate_to(command, folder).with_context(|| format!("cannot write to {}", folder.display()))
}

/// Every command with its flags, in Markdown.
pub fn reference(mut command: Command) -> String {
    command.build();
    let mut text = "# Commands, flags and annotations\n\nWritten by `cargo xtask docs` from the code. Do not edit. Flags of `run` and \
        `redirector` can be given as environment variables too, as the ConfigMap of `deploy/base` does.\n"
        .to_owned();
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help");
    for one in shown {
        let about = one.get_about().map(ToString::to_string).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## sluice {}\n\n{about}.\n", one.get_name());
        let mut arguments = one
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && arg.get_id() != "help")
            .map(row)
            .peekable();
        if arguments.peek().is_some() {
            let _ = write!(text, "\n| flag | variable | default | does |\n|---|---|---|---|\n");
        }
        arguments.for_each(|row| text += &row);
    }
    text += "\n## Annotations and labels\n\nWhat Sluice heeds on objects, besides their fields.\n\n\
             | on | name | value | does |\n|---|---|---|---|\n";
    for mark in annotations::ALL {
        let _ = writeln!(
            text,
            "| {} | {} `{}` | `{}` | {} |",
            mark.on, mark.what, mark.name, mark.value, mark.does
        );
    }
    text
}

fn row(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let takes = arg.get_action().takes_values();
    let value = value.filter(|_| takes).unwrap_or_default();
    let flag = match arg.get_long() {
        Some(long) => format!("--{long} {value}"),
        None => value,
    };
    let env = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default =
        if defaults.is_empty() || !takes { String::new() } else { format!("`{}`", defaults.join(" ")) };
    let possible: Vec<_> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let possible =
        if possible.is_empty() || !takes { String::new() } else { format!(" ({})", possible.join(", ")) };
    let help =
        arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|").replace('\n', " ");
    format!("| `{}` | {env} | {default} | {help}{possible} |\n", flag.trim())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::{Cli, environment};

    #[test]
    fn the_committed_page_is_that_of_the_code() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
        let fresh = reference(environment::added(Cli::command()));
        assert!(
            fs::read_to_string(file).unwrap() == fresh,
            "docs/commands.md is stale: run `cargo xtask docs`"
        );
        for word in ["## sluice run", "`--max-backends MAX_BACKENDS`", "`SLUICE_FORWARDING`", "`snat`"] {
            assert!(fresh.contains(word), "{word}");
        }
        assert!(!fresh.contains("probe-connect"), "hidden");
    }

    #[test]
    fn the_readme_and_the_page_name_every_annotation_of_ours() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let [readme, page] =
            ["README.md", "docs/commands.md"].map(|file| fs::read_to_string(root.join(file)).unwrap());
        for mark in annotations::ALL {
            let row = format!("| {} | {} `{}` |", mark.on, mark.what, mark.name);
            assert!(page.contains(&row), "docs/commands.md: {row}");
            if mark.name.starts_with("sluice.dev/") {
                assert!(readme.contains(&format!("`{}: ", mark.name)), "README.md: {}", mark.name);
            }
        }
    }

    #[test]
    fn no_code_reads_an_annotation_that_is_not_in_the_table() {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let text = fs::read_to_string(&entry).unwrap();
                for found in text.split("sluice.dev/").skip(1) {
                    let end =
                        found.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(found.len());
                    let name = format!("sluice.dev/{}", &found[..end]);
                    let known = end == 0 || annotations::ALL.iter().any(|mark| mark.name == name);
                    assert!(known, "{}: {name}", entry.display());
                }
            }
        }
    }

    #[test]
    fn every_command_has_a_man_page_and_is_completed() {
        let folder = std::env::temp_dir().join(format!("sluice-man-{}", std::process::id()));
        man(Cli::command(), &folder).unwrap();
        let page = fs::read_to_string(folder.join("sluice-explain.1")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(page.contains("The decision for one connection"), "{page}");
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "sluice", &mut script);
        assert!(String::from_utf8(script).unwrap().contains("--drops"));
    }
}
