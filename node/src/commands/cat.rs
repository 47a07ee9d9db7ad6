//! `dft cat` and `dft append`: the bytes of a file of a dataset.

use std::fs::File;
use std::io::{self, ErrorKind, Write};

use serde_json::json;

use super::ask::{absolute, ask};
use super::write_bytes;
use crate::cli::{AppendArgs, ByteRange, CatArgs};
use crate::daemon::wire::Request;
use crate::failure::{Failure, Kind};
use crate::report::{Reporter, human_bytes};

pub(super) async fn run(args: CatArgs) -> Result<(), Failure> {
    let ByteRange { from, to } = args.range.unwrap_or(ByteRange { from: 0, to: None });
    let request = Request::Cat { name: args.name, path: args.path, from, to };
    // stdout is for the data alone.
    let mut is_read = true;
    let print = |bytes: &[u8]| {
        is_read = write_bytes(bytes)?;
        // Whoever read it has enough, as head has: the rest is not waited for.
        if is_read { Ok(()) } else { Err(Failure::new(Kind::Other, "nobody reads it any more")) }
    };
    let told = ask(&request, false, |_| Ok(()), print).await;
    if is_read { told } else { Ok(()) }
}

pub(super) async fn append(args: AppendArgs) -> Result<(), Failure> {
    let path = absolute(&args.local)?;
    let failure = |operation: &str, error: std::io::Error| Failure::io(operation, &path, &error);
    let open = |new| File::options().append(true).create_new(new).open(&path);
    let (mut file, is_new) = match open(true) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            (open(false).map_err(|error| Failure::given("append to", &args.local, &error))?, false)
        }
        Err(error) => return Err(Failure::given("create", &args.local, &error)),
    };
    let before = file.metadata().map_err(|error| failure("look at", error))?.len();
    let request = Request::Cat { name: args.name, path: args.path, from: 0, to: None };
    let mut bytes = 0;
    let mut write =
        |data: &[u8]| write_counted(&mut file, data, &mut bytes).map_err(|error| failure("write", error));
    let appended = ask(&request, false, |_| Ok(()), &mut write).await;
    let appended = appended.and_then(|()| file.sync_data().map_err(|error| failure("sync", error)));
    if let Err(reason) = appended {
        // All of it or nothing, unless another process has appended to it meanwhile.
        let len = file.metadata().map_err(|error| failure("look at", error))?.len();
        if len != before + bytes {
            let left = format!("{} changed meanwhile: what was appended to it so far stays", path.display());
            return Err(Failure { message: format!("{}; {left}", reason.message), ..reason });
        }
        if is_new {
            std::fs::remove_file(&path).map_err(|error| failure("remove", error))?;
        } else {
            file.set_len(before).map_err(|error| failure("shorten", error))?;
        }
        return Err(reason);
    }
    let reporter = Reporter::new(args.json);
    reporter.event(&json!({"event": "appended", "path": path.display().to_string(), "bytes": bytes}));
    reporter.say(&format!("{} were appended to {}", human_bytes(bytes), path.display()));
    Ok(())
}

/// Writes all of `data`, and counts what was written also where that fails.
fn write_counted(file: &mut impl Write, mut data: &[u8], count: &mut u64) -> io::Result<()> {
    while !data.is_empty() {
        match file.write(data) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => {
                *count += len as u64;
                data = &data[len..];
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
