//! `dft put`: publish under a name.

use std::path::PathBuf;

use super::ask::{absolute, ask, no_data};
use super::print_bytes;
use crate::cli::PutArgs;
use crate::daemon::wire::{Item, Request};
use crate::failure::{Failure, Kind};
use crate::report::{counted, human_bytes};

pub(super) async fn run(args: PutArgs) -> Result<(), Failure> {
    let (paths, name) = paths_and_name(args.paths, args.name)?;
    for path in &paths {
        path.metadata().map_err(|error| Failure::given("put", path, &error))?;
    }
    let paths = paths.iter().map(|path| absolute(path).map(|path| path.as_path().into()));
    let paths = paths.collect::<Result<_, _>>()?;
    let request = Request::Put { paths, name, copy: args.copy, compress: args.compress };
    let show = |item| match item {
        Item::Put(put) => {
            let what = if put.already { "is there already" } else { "is put" };
            let (bytes, pieces) = (human_bytes(put.bytes), counted(put.pieces, "piece"));
            print_bytes(format!("{} {what}: {bytes}, {pieces}, id {}\n", put.name, put.id).as_bytes())
        }
        _ => Ok(()),
    };
    ask(&request, args.json, show, no_data).await
}

/// The last of several arguments is the name, where nothing is called so.
fn paths_and_name(
    mut paths: Vec<PathBuf>,
    name: Option<String>,
) -> Result<(Vec<PathBuf>, Option<String>), Failure> {
    if name.is_some() || paths.len() < 2 {
        return Ok((paths, name));
    }
    let missing = paths.last().is_some_and(|last| last.symlink_metadata().is_err());
    if !missing {
        let last = paths.last().map(|last| last.display().to_string()).unwrap_or_default();
        return Err(Failure::new(Kind::Usage, "several paths need a name").hint(format!(
            "put it last, or say --name NAME; «{last}» is there, and was taken for one of the paths"
        )));
    }
    let name = paths.pop().map(|last| last.into_os_string().into_string());
    match name.transpose() {
        Ok(name) => Ok((paths, name)),
        Err(_) => Err(Failure::new(Kind::Usage, "a name is UTF-8 text")
            .hint("no file is called so, hence it is taken for the name; another one: --name NAME")),
    }
}
