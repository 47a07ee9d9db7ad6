//! Who may write into a catalogue: the token file of a user, and how a tracker comes by its token.
//!
//! A user has one token file, `dft/token` in the directory of the configuration. The first tracker or
//! daemon that keeps a catalogue makes it; every daemon of this user reads it. So nothing has to be done
//! where home directories are shared, and elsewhere one file is copied, once.
//!
//! Invariant: a token file appears whole, is for this user alone (mode 600), and is never replaced by
//! another token; no token is printed, logged or taken from a command line.

use std::io;
use std::path::{Path, PathBuf};

use dft_tracker::catalogue::token::{Token, TokenError};

use crate::config;
use crate::failure::{Failure, Kind, shown};
use crate::settings::{create_private_dir, write_atomically};

/// The name of a token file, in the configuration's directory and in a tracker's state.
const FILE: &str = "token";
/// For this user alone.
const MODE: u32 = 0o600;

/// Where this user's token lies, or would.
pub fn of_user() -> Option<PathBuf> {
    Some(config::directory()?.join(FILE))
}

/// Where the token of a tracker lies whose state is in this directory.
fn of_state(state: &Path) -> PathBuf {
    state.join(FILE)
}

/// Reads a token file; `None` where no such file is there and nobody named it.
pub fn read(path: &Path, named: bool) -> Result<Option<Token>, Failure> {
    match Token::read(path) {
        Ok(token) => Ok(Some(token)),
        Err(error) if is_missing(&error) && !named => Ok(None),
        Err(error) => {
            let failure =
                Failure::new(Kind::Usage, format!("cannot read the token {}: {error}", shown(path)));
            Err(failure
                .hint("the node that keeps the catalogue says at its start which file is to be copied here"))
        }
    }
}

fn is_missing(error: &TokenError) -> bool {
    matches!(error, TokenError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
}

/// Gives the tracker whose state is in `state` (a directory that is there) its token, and returns the
/// file that others are to copy: the named one, or else the user's. A new token is made only where
/// neither has one. Without a name, a tracker keeps the token that it had.
pub fn settle(named: Option<&Path>, state: &Path) -> Result<PathBuf, Failure> {
    let own = of_state(state);
    let Some(file) = named.map(Path::to_owned).or_else(of_user) else { return Ok(own) };
    if named.is_none() {
        if own.exists() {
            return Ok(share(&own, file));
        }
        // It may be a home directory that cannot be written to: the tracker makes a token for itself.
        if let Some(directory) = file.parent()
            && create_private_dir(directory).is_err()
        {
            return Ok(own);
        }
    }
    if file != own {
        let token = read_or_make(&file)?;
        write_atomically(&own, text_of(&token).as_bytes(), MODE)?;
    }
    Ok(file)
}

/// What to do on other nodes, for whoever starts a tracker whose token is in this file.
pub fn advice(file: &Path) -> String {
    format!(
        "who puts or removes names needs its token. Where the home directory is shared, it is there already; \
         elsewhere copy\n    {}\nto ~/.config/dft/token (scp -p keeps it yours alone); or, on a LAN that you \
         trust, start this with --open",
        file.display()
    )
}

/// Lets a user who has no token yet have the tracker's; returns the file with the tracker's.
fn share(own: &Path, user: PathBuf) -> PathBuf {
    // The tracker says itself what is wrong with its file.
    let Ok(token) = Token::read(own) else { return own.to_owned() };
    let made = user.parent().is_some_and(|directory| create_private_dir(directory).is_ok())
        && make(&user, &token).is_ok();
    if made || Token::read(&user).is_ok_and(|known| known == token) { user } else { own.to_owned() }
}

fn read_or_make(path: &Path) -> Result<Token, Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        Failure::new(Kind::Usage, format!("cannot use the token {}: {error}", shown(path)))
            .hint("name a file that is not there yet: a new token is written into it")
    };
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        return Err(broken(&format!("there is no directory {}", shown(directory))));
    }
    if !path.exists() {
        let token = Token::random().map_err(|error| broken(&error))?;
        match make(path, &token) {
            // Another one made it meanwhile: that one counts.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Failure::io("write", path, &error));
            }
            _ => {}
        }
    }
    Token::read(path).map_err(|error| broken(&error))
}

/// Makes a token file that is not there yet: the name appears with all of its content, or not at all.
fn make(path: &Path, token: &Token) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".dft-")
        .permissions(std::fs::Permissions::from_mode(MODE))
        .tempfile_in(directory)?;
    file.write_all(text_of(token).as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    std::fs::File::open(directory)?.sync_all()
}

fn text_of(token: &Token) -> String {
    format!("{}\n", token.to_hex())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_tracker_takes_the_token_of_a_named_file_and_makes_one_where_none_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let (state, named) = (directory.path().join("state"), directory.path().join("named"));
        std::fs::create_dir(&state).expect("it is made");
        assert_eq!(settle(Some(&named), &state).expect("a new token"), named);
        let mode = named.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let token = Token::read(&named).expect("a token");
        assert!(Token::read(&of_state(&state)).expect("the tracker has it") == token);
        // Once more, nothing changes; and no file is written over.
        assert_eq!(settle(Some(&named), &state).expect("the same"), named);
        assert!(Token::read(&named).expect("a token") == token);
        let other = Token::random().expect("randomness");
        assert_eq!(make(&named, &other).expect_err("it is there").kind(), io::ErrorKind::AlreadyExists);
        let failure = settle(Some(&directory.path().join("absent/token")), &state).expect_err("no directory");
        assert!(failure.kind == Kind::Usage && failure.message.contains("absent"), "{}", failure.message);
    }

    #[test]
    fn a_user_without_a_token_has_that_of_the_tracker() {
        let directory = tempfile::tempdir().expect("a directory");
        let (own, user) = (directory.path().join("own"), directory.path().join("config/token"));
        let token = Token::random().expect("randomness");
        make(&own, &token).expect("it is made");
        assert_eq!(share(&own, user.clone()), user);
        assert!(Token::read(&user).expect("a token") == token);
        // One that has another keeps it.
        std::fs::remove_file(&own).expect("it is there");
        make(&own, &Token::random().expect("randomness")).expect("it is made");
        assert_eq!(share(&own, user.clone()), own);
        assert!(Token::read(&user).expect("a token") == token);
    }

    #[test]
    fn only_a_named_token_has_to_be_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        assert!(read(&path, false).expect("nobody needs it").is_none());
        assert!(read(&path, true).is_err());
        std::fs::write(&path, "nonsense").expect("it is written");
        assert!(read(&path, false).is_err(), "what is there has to be a token");
    }
}
