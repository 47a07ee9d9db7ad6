//! A manifest as it is written. Fields stand in canonical order: by the length of their encoded key, then
//! bytewise. Only [`Manifest::new`](super::Manifest::new) turns them into something that is used.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_bytes::{ByteBuf, Bytes};

use super::{ENTRY_COUNT_MAX, Entry, Hints, Info, ManifestError, Mtime, PeerAddr};
use crate::geometry::PieceSize;
use crate::id::{DIGEST_LEN, PeerId, PieceHash};
use crate::path::{Name, SafePath, SymlinkTarget};

/// Encodes a value of our own types: nothing in them can fail to encode.
pub(super) fn to_cbor(value: &impl Serialize) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("a value of our own types always encodes to CBOR")
}

/// What [`file_to_cbor`] writes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileCbor {
    pub dft: u64,
    #[serde(default)]
    pub sum: Option<ByteBuf>,
    pub info: InfoCbor,
    pub hints: HintsCbor,
}

/// The map of a manifest. What it holds comes encoded, for `info` may be long.
pub(super) fn file_to_cbor(version: u64, sum: Option<&[u8]>, info: &[u8], hints: &[u8]) -> Vec<u8> {
    /// Major type 5, with the number of pairs in it (RFC 8949, section 3.1).
    const MAP: u8 = 0xA0;
    let sum = sum.map(|sum| to_cbor(&Bytes::new(sum)));
    let version = to_cbor(&version);
    let fields =
        [("dft", Some(&version[..])), ("sum", sum.as_deref()), ("info", Some(info)), ("hints", Some(hints))];
    let there = || fields.iter().filter_map(|(key, value)| Some((key, (*value)?)));
    let mut file = vec![MAP | u8::try_from(there().count()).expect("there are four at most")];
    for (key, value) in there() {
        file.extend_from_slice(&to_cbor(key));
        file.extend_from_slice(value);
    }
    file
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InfoCbor {
    name: ByteBuf,
    #[serde(deserialize_with = "bounded_list")]
    packs: Vec<u32>,
    hashes: ByteBuf,
    #[serde(deserialize_with = "bounded_list")]
    entries: Vec<EntryCbor>,
    piece_size: u64,
}

/// Kind (0 file, 1 directory, 2 symlink), path, then what the kind has; what it lacks is left out.
#[derive(Serialize)]
#[serde(untagged)]
enum EntryCbor {
    File(u8, ByteBuf, u64, u16, i64, u32),
    Directory(u8, ByteBuf, u16, i64, u32),
    Symlink(u8, ByteBuf, ByteBuf),
}

impl<'de> Deserialize<'de> for EntryCbor {
    /// Reads the kind, then just the fields of that kind: a hostile manifest cannot make it hold
    /// more than its own bytes.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;

        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = EntryCbor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<EntryCbor, A::Error> {
                let kind = next(&mut fields)?;
                let path = next(&mut fields)?;
                let entry = match kind {
                    KIND_FILE => EntryCbor::File(
                        kind,
                        path,
                        next(&mut fields)?,
                        next(&mut fields)?,
                        next(&mut fields)?,
                        next(&mut fields)?,
                    ),
                    KIND_DIRECTORY => EntryCbor::Directory(
                        kind,
                        path,
                        next(&mut fields)?,
                        next(&mut fields)?,
                        next(&mut fields)?,
                    ),
                    KIND_SYMLINK => EntryCbor::Symlink(kind, path, next(&mut fields)?),
                    _ => return Err(A::Error::custom("an entry is of no known kind")),
                };
                match fields.next_element::<IgnoredAny>()? {
                    None => Ok(entry),
                    Some(_) => Err(A::Error::custom("an entry has too many fields")),
                }
            }
        }

        fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(fields: &mut A) -> Result<T, A::Error> {
            fields.next_element()?.ok_or_else(|| A::Error::custom("an entry has too few fields"))
        }

        deserializer.deserialize_seq(EntryVisitor)
    }
}

/// A list of at most [`ENTRY_COUNT_MAX`] elements; the limit is checked while it is read.
fn bounded_list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct ListVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(element) = elements.next_element()? {
                if list.len() == ENTRY_COUNT_MAX {
                    return Err(A::Error::custom(format_args!(
                        "a list has more than {ENTRY_COUNT_MAX} elements"
                    )));
                }
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(ListVisitor(PhantomData))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HintsCbor {
    seeders: Vec<(Option<ByteBuf>, String)>,
    trackers: Vec<String>,
}

const KIND_FILE: u8 = 0;
const KIND_DIRECTORY: u8 = 1;
const KIND_SYMLINK: u8 = 2;

impl From<&Info> for InfoCbor {
    fn from(info: &Info) -> Self {
        let bytes = |bytes: &[u8]| ByteBuf::from(bytes);
        let entry = |entry: &Entry| match entry {
            Entry::File { path, size, mode, mtime } => EntryCbor::File(
                KIND_FILE,
                bytes(path.as_bytes()),
                *size,
                *mode,
                mtime.seconds,
                mtime.nanoseconds,
            ),
            Entry::Directory { path, mode, mtime } => EntryCbor::Directory(
                KIND_DIRECTORY,
                bytes(path.as_bytes()),
                *mode,
                mtime.seconds,
                mtime.nanoseconds,
            ),
            Entry::Symlink { path, target } => {
                EntryCbor::Symlink(KIND_SYMLINK, bytes(path.as_bytes()), bytes(target.as_bytes()))
            }
        };
        Self {
            name: bytes(info.name.as_bytes()),
            packs: info.packs.clone(),
            hashes: ByteBuf::from(info.hashes.iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<u8>>()),
            entries: info.entries.iter().map(entry).collect(),
            piece_size: u64::from(info.piece_size.bytes()),
        }
    }
}

impl TryFrom<InfoCbor> for Info {
    type Error = ManifestError;

    fn try_from(info: InfoCbor) -> Result<Self, ManifestError> {
        if info.entries.len() > ENTRY_COUNT_MAX {
            return Err(ManifestError::TooManyEntries);
        }
        let (hashes, rest) = info.hashes.as_chunks::<DIGEST_LEN>();
        if !rest.is_empty() {
            return Err(ManifestError::Malformed("the hashes are not a multiple of 32 bytes".into()));
        }
        Ok(Self {
            name: Name::new(info.name.into_vec())
                .map_err(|error| ManifestError::Path { path: "name".into(), error })?,
            piece_size: PieceSize::new(info.piece_size)?,
            entries: info.entries.into_iter().map(Entry::try_from).collect::<Result<_, _>>()?,
            packs: info.packs,
            hashes: hashes.iter().map(|hash| PieceHash::from_bytes(*hash)).collect(),
        })
    }
}

impl TryFrom<EntryCbor> for Entry {
    type Error = ManifestError;

    fn try_from(entry: EntryCbor) -> Result<Self, ManifestError> {
        let safe = |path: ByteBuf| {
            let path = path.into_vec();
            SafePath::new(path.clone())
                .map_err(|error| ManifestError::Path { path: path.escape_ascii().to_string(), error })
        };
        match entry {
            EntryCbor::File(KIND_FILE, path, size, mode, seconds, nanoseconds) => {
                Ok(Entry::File { path: safe(path)?, size, mode, mtime: Mtime { seconds, nanoseconds } })
            }
            EntryCbor::Directory(KIND_DIRECTORY, path, mode, seconds, nanoseconds) => {
                Ok(Entry::Directory { path: safe(path)?, mode, mtime: Mtime { seconds, nanoseconds } })
            }
            EntryCbor::Symlink(KIND_SYMLINK, path, target) => {
                let path = safe(path)?;
                let target = SymlinkTarget::new(&path, target.into_vec())
                    .ok_or_else(|| ManifestError::Symlink(path.to_string()))?;
                Ok(Entry::Symlink { path, target })
            }
            _ => Err(ManifestError::Malformed("an entry is of no known kind".into())),
        }
    }
}

impl From<&Hints> for HintsCbor {
    fn from(hints: &Hints) -> Self {
        let seeder =
            |hint: &PeerAddr| (hint.peer.map(|peer| ByteBuf::from(peer.as_bytes())), hint.addr.to_string());
        Self { seeders: hints.seeders.iter().map(seeder).collect(), trackers: hints.trackers.clone() }
    }
}

impl TryFrom<HintsCbor> for Hints {
    type Error = ManifestError;

    fn try_from(hints: HintsCbor) -> Result<Self, ManifestError> {
        let seeder = |(peer, addr): (Option<ByteBuf>, String)| {
            let peer = match peer {
                None => None,
                Some(bytes) => Some(
                    PeerId::from_bytes(&bytes).ok_or(ManifestError::Hints("a seeder's id is too long"))?,
                ),
            };
            let addr = addr.parse().map_err(|_| ManifestError::Hints("a seeder's address is not IP:PORT"))?;
            Ok(PeerAddr { peer, addr })
        };
        Ok(Self {
            seeders: hints.seeders.into_iter().map(seeder).collect::<Result<_, ManifestError>>()?,
            trackers: hints.trackers,
        })
    }
}
