//! `dft secret new`: a key file for a private cluster.

use std::path::Path;

use serde_json::json;

use crate::cli::{SecretArgs, SecretCommand};
use crate::failure::Failure;
use crate::report::Reporter;
use crate::secret::Secret;

pub(super) fn run(args: &SecretArgs) -> Result<(), Failure> {
    match &args.command {
        SecretCommand::New { file, json } => new(file, *json),
    }
}

fn new(file: &Path, as_json: bool) -> Result<(), Failure> {
    Secret::generate().write_new(file)?;
    let reporter = Reporter::new(as_json);
    reporter.event(&json!({"event": "secret", "file": file.display().to_string()}));
    reporter.say(&format!(
        "{} is the new secret; copy it to every machine that is to take part (scp -p), and name it there with\n    \
         --secret {}",
        file.display(),
        file.display()
    ));
    Ok(())
}
