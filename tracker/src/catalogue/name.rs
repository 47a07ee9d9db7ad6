//! What things are called in the catalogue: names of datasets, and patterns over them.
//!
//! Invariant: a [`DatasetName`] that exists can be printed, and cut at `/` into components that
//! could be file names. The catalogue itself knows no directories: `/` is a letter like others.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use glob::MatchOptions;
use thiserror::Error;

/// Longest name of a dataset, in bytes: as a file name may be, and a row of the index stays small.
pub const DATASET_NAME_LEN_MAX: usize = 255;
/// Longest pattern, in bytes: as a name. Matching takes at most as many steps as the product of
/// both lengths.
pub const PATTERN_LEN_MAX: usize = 255;

/// Why a text is no name of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// It has no letters.
    #[error("a name is not empty")]
    Empty,
    /// More than [`DATASET_NAME_LEN_MAX`] bytes.
    #[error("a name has at most {DATASET_NAME_LEN_MAX} bytes")]
    TooLong,
    /// Control or direction characters, which would fool a terminal.
    #[error("a name has no control characters")]
    Control,
    /// An empty component, `.` or `..`.
    #[error("a name has no empty component, and none that is «.» or «..»")]
    Component,
}

/// The name of a dataset in the namespace that all nodes share: `results/run-17`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetName(Arc<str>);

impl DatasetName {
    /// The name `text`, where it is one.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > DATASET_NAME_LEN_MAX {
            return Err(NameError::TooLong);
        }
        if text.chars().any(fools_a_terminal) {
            return Err(NameError::Control);
        }
        if text.split('/').any(|component| matches!(component, "" | "." | "..")) {
            return Err(NameError::Component);
        }
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that comes before all others.
    pub fn first() -> Self {
        Self(" ".into())
    }
}

// The derived order and hash are those of the text.
impl Borrow<str> for DatasetName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Control characters, and those that change the direction or width of what follows them.
pub fn fools_a_terminal(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatasetName({:?})", self.as_str())
    }
}

impl FromStr for DatasetName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// More than [`PATTERN_LEN_MAX`] bytes.
    #[error("a pattern has at most {PATTERN_LEN_MAX} bytes")]
    TooLong,
    /// A bracket is not closed, or there is nothing in it.
    #[error("not a pattern: {0}")]
    Malformed(&'static str),
}

/// `/` and a leading dot are letters like others.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: false,
};

/// A pattern over names: `*` stands for any letters, `/` included, `?` for one, `[a-z]` for one
/// of several, `[!a-z]` for one other; `[*]` is a star.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    // What each match begins with: only that part of the index is looked at.
    prefix: Box<str>,
    // What else there is to match; None where there is one star behind the prefix.
    matcher: Option<glob::Pattern>,
}

impl Pattern {
    /// The pattern `text`, where it is one.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_LEN_MAX {
            return Err(PatternError::TooLong);
        }
        let prefix = text.split(['*', '?', '[']).next().unwrap_or_default();
        // Two stars would mean something about directories to the matcher.
        let mut single = String::with_capacity(text.len());
        for letter in text.chars() {
            if !(letter == '*' && single.ends_with('*')) {
                single.push(letter);
            }
        }
        let matcher = match single.strip_prefix(prefix) {
            Some("*") => None,
            _ => Some(glob::Pattern::new(&single).map_err(|error| PatternError::Malformed(error.msg))?),
        };
        Ok(Self { text: text.into(), prefix: prefix.into(), matcher })
    }

    /// The pattern that every name matches.
    pub fn all() -> Self {
        Self::new("*").expect("a star is a pattern")
    }

    /// The pattern, as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What every name that matches begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &DatasetName) -> bool {
        match &self.matcher {
            Some(matcher) => matcher.matches_with(name.as_str(), OPTIONS),
            None => name.as_str().starts_with(&*self.prefix),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_checked() {
        let long = "n".repeat(DATASET_NAME_LEN_MAX + 1);
        let cases: &[(&str, Result<(), NameError>)] = &[
            ("a", Ok(())),
            ("results/run-17", Ok(())),
            ("Größe … 数据", Ok(())),
            ("..a/b..", Ok(())),
            (&long[1..], Ok(())),
            (&long, Err(NameError::TooLong)),
            ("", Err(NameError::Empty)),
            ("/", Err(NameError::Component)),
            ("/a", Err(NameError::Component)),
            ("a/", Err(NameError::Component)),
            ("a//b", Err(NameError::Component)),
            (".", Err(NameError::Component)),
            ("a/../b", Err(NameError::Component)),
            ("a\nb", Err(NameError::Control)),
            ("a\u{1b}[2J", Err(NameError::Control)),
            ("a\u{202e}b", Err(NameError::Control)),
            ("a\0", Err(NameError::Control)),
        ];
        for (text, expected) in cases {
            assert_eq!(DatasetName::new(text).map(|_| ()), *expected, "{text:?}");
        }
    }

    #[test]
    fn patterns_match_across_slashes() {
        // pattern, its prefix, what matches, what doesn't
        let cases: &[(&str, &str, &[&str], &[&str])] = &[
            ("*", "", &["a", "a/b"], &[]),
            ("results/*", "results/", &["results/a", "results/a/b"], &["result", "results"]),
            ("run-?", "run-", &["run-1"], &["run-", "run-12"]),
            ("run-[0-9]*", "run-", &["run-1", "run-1/x"], &["run-x"]),
            ("a[*]", "a", &["a*"], &["ab"]),
            ("[!a]", "", &["b", "ä"], &["a", "bb"]),
            ("ä?[öü]**", "ä", &["äxö", "äöü/x"], &["äö", "ä-x"]),
            ("**/a**b", "", &["x/ab", "x/a/y/b"], &["ab"]),
            (".*", ".", &[".a/.b"], &["a"]),
            ("{a,b}]", "{a,b}]", &["{a,b}]"], &["a"]),
            ("exact", "exact", &["exact"], &["exact/", "exactly", "Exact"]),
            ("*.csv", "", &["a.csv", "b/c.csv"], &["a.csv.gz"]),
        ];
        for (text, prefix, matching, others) in cases {
            let pattern = Pattern::new(text).expect("a pattern");
            assert_eq!(pattern.prefix(), *prefix, "{text}");
            for (name, expected) in
                matching.iter().map(|name| (name, true)).chain(others.iter().map(|name| (name, false)))
            {
                let Ok(name) = DatasetName::new(name) else { continue };
                assert_eq!(pattern.matches(&name), expected, "{text} {name}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_says_so() {
        for text in ["[", "a[b", "[]", "[!]", "a[*"] {
            assert!(matches!(Pattern::new(text), Err(PatternError::Malformed(_))), "{text}");
        }
        assert_eq!(Pattern::new(&"*".repeat(PATTERN_LEN_MAX + 1)), Err(PatternError::TooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_a_pattern_or_an_error(text in "[*?\\[\\]{},!^\\\\a-c/-]{0,40}", name in "[a-c/]{1,20}") {
            if let (Ok(pattern), Ok(name)) = (Pattern::new(&text), DatasetName::new(&name))
                && pattern.matches(&name)
            {
                prop_assert!(name.as_str().starts_with(pattern.prefix()), "{text} {name}");
            }
        }
    }
}
