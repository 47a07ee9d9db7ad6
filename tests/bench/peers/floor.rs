//! What cannot be left out: the bytes go over a bare TCP connection to each receiver, which hashes
//! them by the crate `sha2` and writes them to a file. No protocol, no encryption, no choice. Its
//! connections take what costs least: a congestion control that does not pace, and long reads.
//!
//! Its CPU time is the floor that the unshaped scenarios are held against. Both of its ends are this
//! very program: `floor serve PATH PORT` and `floor take ADDRESS DIRECTORY`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::net::RecvFlags;
use sha2::{Digest, Sha256};
use socket2::SockRef;

use super::{Peer, star_x_bound};
use crate::field::{Ends, Field, Problem};
use crate::lab::data::files_below;
use crate::scenario::Scenario;

const PORT: u16 = 7800;
/// What a receiver reads, hashes and writes at once.
const CHUNK_LEN: usize = 256 * 1024;
/// The longest name that a receiver takes.
const NAME_LEN_MAX: u32 = 4096;

/// The floor, as one of the peers.
pub struct Floor;

impl Peer for Floor {
    fn name(&self) -> &'static str {
        "floor"
    }

    fn about(&self) -> &'static str {
        "bare TCP to each receiver + SHA-256 + pwrite: what cannot be left out"
    }

    fn refuses(&self, scenario: &Scenario) -> Option<&'static str> {
        (!scenario.rates_mbit.is_empty()).then_some("the floor of CPU time is for unshaped networks")
    }

    fn expected_x_bound(&self, scenario: &Scenario) -> f64 {
        star_x_bound(scenario)
    }

    fn prepare(&self, field: &Field) -> Result<(), Problem> {
        let mut command = field.command(0, this_program()?);
        command.args(["floor", "serve"]).arg(&field.dataset).arg(PORT.to_string());
        field.daemon(0, &mut command, PORT)
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let mut command = field.command(receiver, this_program()?);
        command.args(["floor", "take", &format!("{}:{PORT}", field.address(0))]).arg(field.copies(receiver));
        field.start(receiver, &mut command, Ends::Exits)?;
        Ok(true)
    }
}

fn this_program() -> Result<PathBuf, Problem> {
    std::env::current_exe().map_err(|error| format!("this very program: {error}"))
}

/// The program of both ends.
pub fn main(arguments: &[String]) -> io::Result<()> {
    match arguments {
        [part, path, port] if part == "serve" => {
            serve(Path::new(path), port.parse().map_err(io::Error::other)?)
        }
        [part, address, directory] if part == "take" => take(address, Path::new(directory)),
        _ => Err(io::Error::other("floor serve PATH PORT, or floor take ADDRESS DIRECTORY")),
    }
}

/// Sends all files to whoever connects: the length of a name, the name, the length of the content
/// and the content, until the connection ends.
fn serve(path: &Path, port: u16) -> io::Result<()> {
    let files = if path.is_dir() { files_below(path) } else { vec![path.to_owned()] };
    let parent = path.parent().map(Path::to_owned).unwrap_or_default();
    for stream in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let (mut stream, files, parent) = (unpaced(stream?)?, files.clone(), parent.clone());
        std::thread::spawn(move || files.iter().try_for_each(|path| send(&mut stream, path, &parent)));
    }
    Ok(())
}

fn unpaced(stream: TcpStream) -> io::Result<TcpStream> {
    SockRef::from(&stream).set_tcp_congestion(b"reno")?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, path: &Path, parent: &Path) -> io::Result<()> {
    let name = path.strip_prefix(parent).map_err(io::Error::other)?.to_string_lossy().into_owned();
    let mut file = File::open(path)?;
    let mut header = u32::try_from(name.len()).map_err(io::Error::other)?.to_le_bytes().to_vec();
    header.extend(name.as_bytes());
    header.extend(file.metadata()?.len().to_le_bytes());
    stream.write_all(&header)?;
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}

fn take(address: &str, directory: &Path) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut buffer = vec![0; CHUNK_LEN];
    while let Some((path, len)) = header(&mut stream, directory)? {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = File::create(path)?;
        let (mut hasher, mut offset) = (Sha256::new(), 0);
        while offset < len {
            let count = usize::try_from(len - offset).map_or(CHUNK_LEN, |left| left.min(CHUNK_LEN));
            take_exact(&stream, &mut buffer[..count])?;
            hasher.update(&buffer[..count]);
            file.write_all_at(&buffer[..count], offset)?;
            offset += count as u64;
        }
        std::hint::black_box(hasher.finalize());
    }
    Ok(())
}

/// Fills `buffer`; the kernel wakes its reader once for all of it.
fn take_exact(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::net::recv(stream, &mut buffer[filled..], RecvFlags::WAITALL)? {
            (_, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (_, len) => filled += len,
        }
    }
    Ok(())
}

/// The next file's path and length; nothing where the connection ended.
fn header(stream: &mut TcpStream, directory: &Path) -> io::Result<Option<(PathBuf, u64)>> {
    let mut name_len = [0; 4];
    if stream.read(&mut name_len[..1])? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut name_len[1..])?;
    let name_len = u32::from_le_bytes(name_len);
    if name_len > NAME_LEN_MAX {
        return Err(io::Error::other("the source is not the floor's"));
    }
    let mut name = vec![0; usize::try_from(name_len).map_err(io::Error::other)?];
    stream.read_exact(&mut name)?;
    let mut len = [0; 8];
    stream.read_exact(&mut len)?;
    let name = String::from_utf8(name).map_err(io::Error::other)?;
    Ok(Some((directory.join(name), u64::from_le_bytes(len))))
}
