//! `dft daemon`: run it here, or have systemd run it.

use std::ffi::OsString;
use std::path::PathBuf;

use super::print_bytes;
use crate::cli::DaemonArgs;
use crate::daemon;
use crate::failure::{Failure, Kind};
use crate::settings::write_atomically;

const UNIT: &str = "dft.service";

pub(super) async fn run(args: DaemonArgs) -> Result<(), Failure> {
    if args.install {
        return install();
    }
    if args.detached {
        // Fails only where this is a session of its own already.
        let _ = rustix::process::setsid();
    }
    daemon::run(args).await
}

/// Writes a systemd user unit with the options that this process was given.
fn install() -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Kind::Other, format!("cannot find this program: {error}")))?;
    let options = std::env::args_os().skip(1).filter(|option| option != "--install");
    let words = std::iter::once(program.into_os_string()).chain(options);
    let words = words.map(|word| Ok(quoted(&utf8(word)?))).collect::<Result<Vec<_>, Failure>>()?;
    let command = words.join(" ");
    let here = std::env::current_dir()
        .map_err(|error| Failure::new(Kind::Other, format!("cannot find the working directory: {error}")))?;
    let directory = unit_directory()?;
    std::fs::create_dir_all(&directory).map_err(|error| Failure::io("create", &directory, &error))?;
    let path = directory.join(UNIT);
    write_atomically(&path, unit(&command, &here.display().to_string()).as_bytes(), 0o644)?;
    print_bytes(
        format!(
            "wrote {}\nstart it, at every login:   systemctl --user enable --now {UNIT}\n\
             also while logged out:      loginctl enable-linger\n",
            path.display()
        )
        .as_bytes(),
    )
}

/// A unit file is UTF-8.
fn utf8(word: OsString) -> Result<String, Failure> {
    word.into_string().map_err(|word| {
        Failure::new(Kind::Usage, format!("«{}» is not UTF-8, as a systemd unit has to be", word.display()))
    })
}

/// The options may name files relative to `directory`.
fn unit(command: &str, directory: &str) -> String {
    let directory = directory.replace('%', "%%");
    format!(
        "[Unit]\nDescription=dft: datasets shared with the machines of this network\n\n\
         [Service]\nWorkingDirectory={directory}\nExecStart={command}\nRestart=on-failure\nRestartSec=2\n\n\
         [Install]\nWantedBy=default.target\n"
    )
}

/// A word of a command line, as systemd.syntax(7) wants it.
fn quoted(word: &str) -> String {
    let mut text = String::from("\"");
    for letter in word.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            '%' | '$' => text.extend([letter, letter]),
            '\n' => text.push_str("\\n"),
            _ => text.push(letter),
        }
    }
    text.push('"');
    text
}

fn unit_directory() -> Result<PathBuf, Failure> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
    let base =
        base.ok_or_else(|| Failure::new(Kind::Other, "there is no home directory").hint("set HOME"))?;
    Ok(base.join("systemd/user"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_no_unit_can_hold_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        assert_eq!(utf8("é".into()).expect("it is UTF-8"), "é");
        let failure = utf8(OsString::from_vec(b"/a\xff".to_vec())).expect_err("it is not");
        assert!(failure.message.contains("is not UTF-8"), "{}", failure.message);
    }

    #[test]
    fn words_of_a_unit_mean_what_they_say() {
        for (word, text) in [("a", "\"a\""), ("a b", "\"a b\""), ("50%\"$x\\", "\"50%%\\\"$$x\\\\\"")] {
            assert_eq!(quoted(word), text);
        }
    }
}
