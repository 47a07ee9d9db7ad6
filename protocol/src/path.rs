//! Paths inside a dataset. [`SafePath`] is the only way from bytes of a manifest to a file name.

use std::cmp::Ordering;
use std::fmt;

use thiserror::Error;

/// Longest name of one file or directory, in bytes.
pub const NAME_LEN_MAX: usize = 255;
/// Longest path, in bytes.
pub const PATH_LEN_MAX: usize = 4096;

/// Why bytes are no safe path or name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PathError {
    /// A name has no bytes: an absolute path, a doubled or a trailing slash.
    #[error("it has an empty component (an absolute path, «//» or a trailing «/»)")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("it has a «.» or «..» component")]
    DotComponent,
    /// A NUL byte, or a slash inside a name.
    #[error("it has a NUL byte or a slash in a name")]
    ForbiddenByte,
    /// A name is longer than [`NAME_LEN_MAX`].
    #[error("a component is longer than {NAME_LEN_MAX} bytes")]
    NameTooLong,
    /// The path is longer than [`PATH_LEN_MAX`].
    #[error("it is longer than {PATH_LEN_MAX} bytes")]
    PathTooLong,
}

/// The name of one file or directory: not empty, not `.` or `..`, without slash and NUL, at most
/// [`NAME_LEN_MAX`] bytes; any encoding.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// The name with these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        check_component(&bytes)?;
        if bytes.contains(&b'/') {
            return Err(PathError::ForbiddenByte);
        }
        Ok(Self(bytes))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_printable(f, &self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "«{self}»")
    }
}

/// A relative path of valid [`Name`]s separated by slashes; the empty path is the root of the
/// dataset. Ordered name by name, so a directory comes right before what it holds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SafePath(Vec<u8>);

impl SafePath {
    /// The root of the dataset.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The path with these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.len() > PATH_LEN_MAX {
            return Err(PathError::PathTooLong);
        }
        if !bytes.is_empty() {
            bytes.split(|&byte| byte == b'/').try_for_each(check_component)?;
        }
        Ok(Self(bytes))
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: &Name) -> Result<Self, PathError> {
        let mut bytes = self.0.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name.as_bytes());
        Self::new(bytes)
    }

    /// Whether this is the root of the dataset.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of the path, components separated by slashes; none for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
    }

    /// The directory that holds this; `None` for the root.
    pub fn parent(&self) -> Option<SafePath> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0[..cut].to_vec()))
    }
}

impl Ord for SafePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for SafePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_printable(f, &self.0)
    }
}

impl fmt::Debug for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "«{self}»")
    }
}

/// What a symbolic link of a dataset points to: relative, and inside the dataset.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SymlinkTarget(Vec<u8>);

impl SymlinkTarget {
    /// The target `target` of the link at `link`; `None` where it is empty, absolute, too long,
    /// holds a NUL, or climbs above the root of the dataset at any step.
    ///
    /// The check is lexical: each `..` goes up one level, each other name down one. A link that
    /// passes through another link of the dataset is judged by the same rule, hence a chain of
    /// links could still climb; so nothing is ever written through a link.
    pub fn new(link: &SafePath, target: impl Into<Vec<u8>>) -> Option<Self> {
        let target = target.into();
        if target.is_empty() || target.len() > PATH_LEN_MAX || target[0] == b'/' || target.contains(&0) {
            return None;
        }
        let mut depth = link.components().count().checked_sub(1)?;
        for component in target.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => depth = depth.checked_sub(1)?,
                name if name.len() > NAME_LEN_MAX => return None,
                _ => depth += 1,
            }
        }
        Some(Self(target))
    }

    /// The bytes of the target.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SymlinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("→ ")?;
        write_printable(f, &self.0)
    }
}

fn check_component(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::DotComponent),
        _ if name.len() > NAME_LEN_MAX => Err(PathError::NameTooLong),
        _ if name.contains(&0) => Err(PathError::ForbiddenByte),
        _ => Ok(()),
    }
}

/// Writes bytes for a terminal: control characters and what is not UTF-8 as escapes, so that a
/// hostile name can neither colour a terminal nor pass for another.
fn write_printable(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    use fmt::Write;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control()
                || matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                f.write_char(character)?;
            }
        }
        chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SafePath {
        SafePath::new(text).unwrap()
    }

    #[test]
    fn unsafe_paths_are_refused() {
        let cases: &[(&[u8], PathError)] = &[
            (b"/etc/passwd", PathError::EmptyComponent),
            (b"a//b", PathError::EmptyComponent),
            (b"a/", PathError::EmptyComponent),
            (b"..", PathError::DotComponent),
            (b"a/../b", PathError::DotComponent),
            (b"./a", PathError::DotComponent),
            (b"a\0b", PathError::ForbiddenByte),
            (&[b'x'; 256], PathError::NameTooLong),
            (&[b'x'; 5000], PathError::PathTooLong),
        ];
        for (bytes, error) in cases {
            assert_eq!(SafePath::new(*bytes).as_ref(), Err(error), "{}", bytes.escape_ascii());
        }
        assert_eq!(Name::new("a/b"), Err(PathError::ForbiddenByte));
    }

    #[test]
    fn a_directory_sorts_right_before_its_content() {
        let mut paths = [path("a-b"), path("a/c"), path("a"), path("a.txt"), path(""), path("b")];
        paths.sort();
        assert_eq!(paths.map(|path| path.to_string()), ["", "a", "a/c", "a-b", "a.txt", "b"]);
    }

    #[test]
    fn symlinks_stay_inside_the_tree() {
        let inside =
            [("l", "a"), ("d/l", "../a"), ("d/l", "x/../../a"), ("l", "./a/.."), ("d/e/l", "../../a")];
        for (link, target) in inside {
            assert!(SymlinkTarget::new(&path(link), target).is_some(), "{link} to {target}");
        }
        let outside =
            [("l", ".."), ("l", "/etc"), ("d/l", "../../a"), ("l", "a/../../b"), ("l", ""), ("", "a")];
        for (link, target) in outside {
            assert!(SymlinkTarget::new(&path(link), target).is_none(), "{link} to {target}");
        }
    }

    #[test]
    fn odd_names_print_harmlessly() {
        let name = Name::new(b"caf\xe9\x1b[31m\xc3\xa9\xe2\x80\xae".to_vec()).unwrap();
        assert_eq!(name.to_string(), "caf\\xe9\\u{1b}[31mé\\u{202e}");
    }
}
