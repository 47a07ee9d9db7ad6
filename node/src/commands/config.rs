//! `dft config show`: what is set, and where.

use std::fmt::Write;

use clap::CommandFactory;
use serde_json::json;

use super::print_bytes;
use crate::cli::{Cli, ConfigArgs, ConfigCommand};
use crate::config::{ConfigFile, Setting, Source};
use crate::failure::Failure;

pub(super) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let command = Cli::command();
    let file = ConfigFile::load(&command)?;
    let settings = file.settings(&command)?;
    match args.command {
        ConfigCommand::Show { json: true } => {
            print_bytes(format!("{}\n", as_json(&file, &settings)).as_bytes())
        }
        ConfigCommand::Show { json: false } => print_bytes(as_text(&file, &settings).as_bytes()),
    }
}

fn as_json(file: &ConfigFile, settings: &[Setting]) -> serde_json::Value {
    let settings = settings.iter().map(|setting| {
        let (source, from) = match &setting.source {
            Source::Environment(variable) => ("environment", Some(variable.clone())),
            Source::File(path) => ("file", Some(path.display().to_string())),
            Source::Default => ("default", None),
        };
        json!({
            "name": setting.name, "values": setting.values, "source": source, "from": from,
            "variable": setting.variable,
        })
    });
    json!({
        "file": file.path.as_ref().map(|path| path.display().to_string()),
        "settings": settings.collect::<Vec<_>>(),
    })
}

fn as_text(file: &ConfigFile, settings: &[Setting]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    match &file.path {
        Some(path) if path.exists() => drop(writeln!(text, "file  {}", path.display())),
        Some(path) => drop(writeln!(text, "file  {} (there is none)", path.display())),
        None => drop(writeln!(text, "file  none")),
    }
    for setting in settings {
        let value = if setting.values.is_empty() { "-".into() } else { setting.values.join(", ") };
        let source = match &setting.source {
            Source::Environment(variable) => format!("environment, {variable}"),
            Source::File(_) => "file".into(),
            Source::Default => "default".into(),
        };
        let _ = writeln!(text, "{:<14} {value:<24} {source}", setting.name);
    }
    text
}
