//! What was measured, as it is kept: a file in JSON that later runs add to.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::scenario::{SCENARIOS, Scenario};
use crate::trial::Trial;

/// All that a file holds.
#[derive(Default, Serialize, Deserialize)]
pub struct Record {
    /// The machine and the day, as people read it.
    pub machine: String,
    /// How many threads run at once on it.
    pub cores: usize,
    /// TCP's congestion control on every host.
    pub congestion_control: String,
    /// What `dft --version` says.
    pub dft: String,
    /// The scenarios in the order of [`SCENARIOS`].
    pub scenarios: Vec<Played>,
}

/// One scenario.
#[derive(Serialize, Deserialize)]
pub struct Played {
    /// Its name.
    pub scenario: String,
    /// What it is.
    pub about: String,
    /// Bytes of the dataset.
    pub bytes: u64,
    /// Seconds that no network can beat; none where none is limited.
    pub network_bound_s: Option<f64>,
    /// The peers, each once.
    pub rows: Vec<Row>,
}

/// One peer in one scenario.
#[derive(Clone, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub peer: String,
    /// When it was measured, in UTC.
    pub at: String,
    /// Why it did not play, if so.
    pub absent: Option<String>,
    /// What was measured, one after another.
    pub trials: Vec<Trial>,
}

impl Record {
    /// What a file holds; nothing where there is none.
    pub fn read(path: &Path) -> Result<Self, String> {
        match std::fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let json = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(path, json + "\n").map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The rows of a scenario; an empty list is begun where there is none.
    pub fn played(&mut self, scenario: &Scenario) -> &mut Played {
        let place = self.scenarios.iter().position(|played| played.scenario == scenario.name);
        let place = place.unwrap_or_else(|| {
            self.scenarios.push(Played {
                scenario: scenario.name.to_owned(),
                about: scenario.about.to_owned(),
                bytes: scenario.dataset.bytes(),
                network_bound_s: scenario.network_bound_s(),
                rows: Vec::new(),
            });
            self.scenarios.len() - 1
        });
        &mut self.scenarios[place]
    }

    /// The scenarios in the order of the list.
    pub fn in_order(&self) -> impl Iterator<Item = (&'static Scenario, &Played)> {
        SCENARIOS.iter().filter_map(|scenario| {
            let played = self.scenarios.iter().find(|played| played.scenario == scenario.name);
            played.map(|played| (scenario, played))
        })
    }
}

impl Played {
    /// The row of a peer; an empty one is begun where there is none.
    pub fn row(&mut self, peer: &str) -> &mut Row {
        let place = self.rows.iter().position(|row| row.peer == peer);
        let place = place.unwrap_or_else(|| {
            self.rows.push(Row {
                peer: peer.to_owned(),
                at: String::new(),
                absent: None,
                trials: Vec::new(),
            });
            self.rows.len() - 1
        });
        &mut self.rows[place]
    }

    /// The bound of this scenario on this machine, see [`Scenario::bound_s`].
    pub fn bound_s(&self, scenario: &Scenario, cores: usize) -> Option<f64> {
        let floor = self.rows.iter().find(|row| row.peer == "floor");
        let cpu_s = floor.and_then(|floor| floor.median(|trial| trial.seconds.map(|_| trial.cpu_s)));
        scenario.bound_s(cpu_s, cores)
    }
}

impl Row {
    /// A value of each trial that has it.
    pub fn values(&self, value: impl Fn(&Trial) -> Option<f64>) -> Vec<f64> {
        self.trials.iter().filter_map(value).collect()
    }

    /// The median of a value over the trials that have it.
    pub fn median(&self, value: impl Fn(&Trial) -> Option<f64>) -> Option<f64> {
        let values = self.values(value);
        (!values.is_empty()).then(|| crate::table::Samples::of(values).median())
    }
}
