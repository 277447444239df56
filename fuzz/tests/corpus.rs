//! The committed inputs through their targets, without libFuzzer; and that they lead to what the targets are about.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeMap, fs, path::Path};

use sluice::l7::rules::clienthello::{Hello, parse};
use sluice_fuzz::TARGETS;

/// A target's inputs by name.
fn inputs(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.map(Result::unwrap);
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
}

#[test]
fn what_was_found_once_stays_mended() {
    for target in TARGETS {
        let inputs = inputs(target.name);
        assert!(inputs.len() > 3, "{} has something to begin with", target.name);
        for (name, bytes) in inputs {
            println!("{}/{name}", target.name);
            (target.run)(&bytes);
            // Whatever a file becomes when it is cut off.
            (0..bytes.len()).step_by(17).for_each(|end| (target.run)(&bytes[..end]));
        }
    }
}

#[test]
fn names_are_in_the_inputs() {
    let of = |name: &str| parse(&inputs("server_name")[name]);
    assert_eq!(of("name"), Hello::Sni("blue.example.com".to_owned()));
    assert_eq!(of("records"), Hello::Sni("in.many.records.example.com".to_owned()));
    assert_eq!(of("no_name"), Hello::NoSni);
}
