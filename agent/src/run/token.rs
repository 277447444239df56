//! What tells a redirector from any other process of its user: a word in a file that root alone reads, which a redirector
//! does before it becomes nobody. It stays when the agent is replaced, for the redirector does too.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::l7::snapshot::token_file;

const BYTES: usize = 32;

/// The word in the file, which is made if it is not there.
///
/// # Errors
/// It can neither be read nor made.
pub fn load(folder: &Path) -> Result<String> {
    let file = token_file(folder);
    match fs::read_to_string(&file) {
        Ok(text) if text.len() == 2 * BYTES => return Ok(text),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
    let mut random = [0; BYTES];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .context("/dev/urandom")?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // Whole or not there, and nobody else's at any time.
    let hidden = file.with_extension("new");
    let _left_by_a_crash = fs::remove_file(&hidden);
    let private = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&hidden);
    let written =
        private.and_then(|mut to| to.write_all(text.as_bytes())).and_then(|()| fs::rename(&hidden, &file));
    written.with_context(|| format!("cannot write {}", file.display()))?;
    Ok(text)
}

/// Whether both are the same, in a time that does not tell how far they are.
pub fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_word_stays_and_is_roots_alone() {
        let folder = std::env::temp_dir().join(format!("sluice-token-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let first = load(&folder).unwrap();
        assert_eq!(load(&folder).unwrap(), first, "the next agent has the same");
        assert_eq!(fs::metadata(token_file(&folder)).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(token_file(&folder), "").unwrap();
        let second = load(&folder).unwrap();
        assert!(second != first && second.len() == 64, "a damaged one is replaced: {second}");
        for (one, other, same) in [(&*first, &*first, true), (&first, &second, false), (&first, "", false)] {
            assert_eq!(is_same(one, other), same);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
