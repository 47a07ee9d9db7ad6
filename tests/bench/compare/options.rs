//! The command line.

use std::path::PathBuf;

use crate::peers::{self, Peer};
use crate::scenario::{SCENARIOS, Scenario};

/// What TCP can be told to use, where the kernel has it.
const CONGESTION_CONTROLS: [&str; 3] = ["bbr", "cubic", "reno"];

/// How to call it.
pub const USAGE: &str = "\
cargo bench -p dft --bench compare -- [SCENARIO]… [OPTION]…

  SCENARIO             what to play, by name or by its first letter [default: A to K]
  --peers NAME,…       who plays [default: all, in some scenarios those that make sense]
  --runs N             how often each plays [default: 3; those that take long, once]
  --congestion NAME    TCP's congestion control: bbr, cubic or reno [default: the machine's]
  --dft PATH           the dft to measure [default: the one that cargo built]
  --traces DIR         what each dft saw goes there, a directory for each run, for `dft trace`
  --json FILE          keep what was measured; what the file has of others stays
  --markdown FILE      write the tables of everything in the JSON file, or of this run
  --plot FILE          the same as a picture, in SVG
  --render FILE        measure nothing: show what a JSON file holds
  --install            install missing peers from Debian's packages first; needs root
  --list               show scenarios and peers
";

/// What was asked for.
#[derive(Default)]
pub struct Options {
    pub scenarios: Vec<&'static Scenario>,
    pub peers: Vec<&'static dyn Peer>,
    pub runs: Option<usize>,
    pub congestion_control: Option<&'static str>,
    pub dft: Option<PathBuf>,
    pub traces: Option<PathBuf>,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
    pub plot: Option<PathBuf>,
    pub render: Option<PathBuf>,
    pub install: bool,
    pub list: bool,
}

impl Options {
    /// What these arguments ask for, or what is wrong with them.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match argument.as_str() {
                "--peers" => options.peers = parse_peers(&value()?)?,
                "--runs" => options.runs = Some(parse_runs(&value()?)?),
                "--congestion" => options.congestion_control = Some(parse_congestion_control(&value()?)?),
                "--dft" => options.dft = Some(absolute(&value()?)?),
                "--traces" => options.traces = Some(absolute(&value()?)?),
                "--json" => options.json = Some(absolute(&value()?)?),
                "--markdown" => options.markdown = Some(absolute(&value()?)?),
                "--plot" => options.plot = Some(absolute(&value()?)?),
                "--render" => options.render = Some(absolute(&value()?)?),
                "--install" => options.install = true,
                "--list" => options.list = true,
                name => options.scenarios.extend(parse_scenario(name)?),
            }
        }
        if options.scenarios.is_empty() {
            options.scenarios = SCENARIOS.iter().filter(|scenario| scenario.name != "smoke").collect();
        }
        Ok(options)
    }

    /// Who plays a scenario: whoever was named, or whoever makes sense in it.
    pub fn players(&self, scenario: &Scenario) -> Vec<&'static dyn Peer> {
        if !self.peers.is_empty() {
            return self.peers.clone();
        }
        let plays = |peer: &&&dyn Peer| scenario.peers.is_empty() || scenario.peers.contains(&peer.name());
        peers::PEERS.iter().filter(plays).copied().collect()
    }
}

fn parse_scenario(name: &str) -> Result<Vec<&'static Scenario>, String> {
    if let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == name) {
        return Ok(vec![scenario]);
    }
    let letter = name.len() == 1;
    let all: Vec<_> = SCENARIOS.iter().filter(|scenario| letter && scenario.name.starts_with(name)).collect();
    if all.is_empty() { Err(format!("there is no scenario «{name}»")) } else { Ok(all) }
}

fn parse_peers(names: &str) -> Result<Vec<&'static dyn Peer>, String> {
    let wanted: Vec<&str> = names.split(',').collect();
    if let Some(name) = wanted.iter().find(|name| peers::find(name).is_none()) {
        return Err(format!("there is no peer «{name}»"));
    }
    Ok(peers::PEERS.iter().filter(|peer| wanted.contains(&peer.name())).copied().collect())
}

fn parse_runs(count: &str) -> Result<usize, String> {
    count.parse().ok().filter(|&count| count > 0).ok_or("--runs takes a number from 1".to_owned())
}

fn parse_congestion_control(name: &str) -> Result<&'static str, String> {
    let known = CONGESTION_CONTROLS.into_iter().find(|&known| known == name);
    known.ok_or(format!("--congestion takes one of {}", CONGESTION_CONTROLS.join(", ")))
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{path}: {error}"))
}
