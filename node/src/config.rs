//! Settings that stay: one optional TOML file, and environment variables, under the names of the
//! long options.
//!
//! What may be set so is what an option of the command line says itself: every option with an
//! environment variable (`#[arg(env = …)]` in [`crate::cli`]) may stand in the file. A flag wins over
//! the environment, that over the file, and that over the default. What the file says becomes the
//! default of the option, in all verbs that have it; so there is one way from text to value.
//!
//! Where to start reading: [`ConfigFile::load`], [`ConfigFile::apply`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::builder::OsStr;
use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches};
use toml::{Table, Value};

use crate::cli::Cli;
use crate::failure::{Failure, Kind, shown};

/// Names another file; empty, it stands for none.
pub const FILE_VARIABLE: &str = "DFT_CONFIG";
/// Largest file that is read.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// Names that are less alike than this are not what was meant.
const ALIKE_MIN: f64 = 0.7;

/// What the file says.
#[derive(Clone, Debug, Default)]
pub struct ConfigFile {
    /// Where it is, or would be.
    pub path: Option<PathBuf>,
    /// For each option its values: one, but for lists.
    values: BTreeMap<String, Vec<String>>,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// This environment variable.
    Environment(String),
    /// The file.
    File(PathBuf),
    /// The program itself.
    Default,
}

/// One option that may be set so, and what it is set to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The long option, and the key in the file.
    pub name: String,
    /// Its environment variable.
    pub variable: String,
    /// Its values; none where nothing is set.
    pub values: Vec<String>,
    /// Where they come from.
    pub source: Source,
}

impl ConfigFile {
    /// Reads the file, where there is one, and checks it against the options of `command`.
    pub fn load(command: &Command) -> Result<Self, Failure> {
        let Some(path) = path() else {
            return Ok(Self::default());
        };
        let named = std::env::var_os(FILE_VARIABLE).is_some();
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => String::new(),
            Err(error) => {
                let message = format!("cannot read the configuration {}: {error}", shown(&path));
                let hint = if named {
                    "DFT_CONFIG names it; empty, it stands for no file"
                } else {
                    "it has to be a file that you can read, in UTF-8; DFT_CONFIG= does without it"
                };
                return Err(Failure::new(Kind::Usage, message).hint(hint));
            }
        };
        Self::parse(&text, command, path)
    }

    fn parse(text: &str, command: &Command, path: PathBuf) -> Result<Self, Failure> {
        let wrong = |text: String| Failure::new(Kind::Usage, format!("{}: {text}", shown(&path)));
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            wrong(error.to_string().trim_end().to_owned()).hint("it is TOML: max-upload = \"50M\"")
        })?;
        let options = options(command);
        let mut values = BTreeMap::new();
        for (name, value) in table {
            let Some(option) = options.get(&name) else {
                let failure = wrong(format!("there is no setting «{}»", name.escape_debug()));
                return Err(match nearest(&name, options.keys()) {
                    Some(known) => failure.hint(format!("did you mean {known}?")),
                    None => failure.hint("dft config show lists all"),
                });
            };
            let checked = texts_of(&value, option).and_then(|texts| check(option, &texts).map(|()| texts));
            let texts = checked.map_err(|text| {
                wrong(format!("{name}: {text}")).hint(format!("it takes what the option --{name} takes"))
            })?;
            values.insert(name, texts);
        }
        Ok(Self { path: Some(path), values })
    }

    /// The file of this process, read once: whatever is typed means the same all along.
    pub fn of_process() -> Result<&'static Self, &'static Failure> {
        static FILE: OnceLock<Result<ConfigFile, Failure>> = OnceLock::new();
        FILE.get_or_init(|| Self::load(&Cli::command())).as_ref()
    }

    /// What these words mean, where the file sets what they do not.
    pub fn read_words(
        &self,
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Cli, clap::Error> {
        let matches = self.apply(Cli::command()).try_get_matches_from(words)?;
        Cli::from_arg_matches(&matches)
    }

    /// Makes what the file says the defaults of the options.
    pub fn apply(&self, command: Command) -> Command {
        command.mut_subcommands(|verb| {
            verb.mut_args(|arg| match self.values.get(arg.get_long().unwrap_or_default()) {
                Some(values) if arg.get_env().is_some() => {
                    arg.default_values(values.iter().map(OsStr::from).collect::<Vec<_>>())
                }
                _ => arg,
            })
        })
    }

    /// All that may be set so, and what it is set to where no flag says otherwise.
    pub fn settings(&self, command: &Command) -> Result<Vec<Setting>, Failure> {
        options(command).into_iter().map(|(name, option)| self.setting(name, &option)).collect()
    }

    fn setting(&self, name: String, option: &Arg) -> Result<Setting, Failure> {
        let variable = option.get_env().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(value) = std::env::var_os(&variable) {
            let text = value.to_string_lossy().into_owned();
            let delimiter = option.get_value_delimiter();
            let values = delimiter
                .map_or_else(|| vec![text.clone()], |it| text.split(it).map(str::to_owned).collect());
            check(option, &values)
                .map_err(|text| Failure::new(Kind::Usage, format!("{variable}: {text}")))?;
            return Ok(Setting { name, values, source: Source::Environment(variable.clone()), variable });
        }
        if let (Some(values), Some(path)) = (self.values.get(&name), &self.path) {
            let (values, source) = (values.clone(), Source::File(path.clone()));
            return Ok(Setting { name, variable, values, source });
        }
        let defaults = option.get_default_values().iter();
        let values = defaults.map(|value| value.to_string_lossy().into_owned()).collect();
        Ok(Setting { name, variable, values, source: Source::Default })
    }
}

/// Whether what the configuration says is for this verb: it has options that may be set there, or is
/// about the configuration itself.
pub fn is_for(command: &Command, verb: &str) -> bool {
    let verb = command.find_subcommand(verb);
    verb.is_none_or(|verb| {
        verb.get_name() == "config" || verb.get_arguments().any(|option| option.get_env().is_some())
    })
}

/// `$DFT_CONFIG`, else `$XDG_CONFIG_HOME/dft/config.toml`, else `~/.config/dft/config.toml`.
fn path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(FILE_VARIABLE) {
        return Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
    }
    Some(directory()?.join("config.toml"))
}

/// `$XDG_CONFIG_HOME/dft`, else `~/.config/dft`.
pub fn directory() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(base.join("dft"))
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The options of all verbs that have an environment variable, by their names.
fn options(command: &Command) -> BTreeMap<String, Arg> {
    let args = command.get_subcommands().flat_map(Command::get_arguments);
    let settable = args.filter(|arg| arg.get_env().is_some());
    let mut options = BTreeMap::new();
    for (name, arg) in settable.filter_map(|arg| Some((arg.get_long()?.to_owned(), arg))) {
        let option = options.entry(name).or_insert_with(|| arg.clone());
        // Of several verbs, the one that says its default.
        if option.get_default_values().is_empty() {
            *option = arg.clone();
        }
    }
    options
}

fn is_list(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}

fn is_switch(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue)
}

/// A value of the file as somebody would have typed it.
fn texts_of(value: &Value, option: &Arg) -> Result<Vec<String>, String> {
    match value {
        Value::Array(values) if is_list(option) => {
            values.iter().map(|value| text_of(value, option)).collect()
        }
        value => Ok(vec![text_of(value, option)?]),
    }
}

fn text_of(value: &Value, option: &Arg) -> Result<String, String> {
    match (value, is_switch(option)) {
        (Value::Boolean(value), true) => Ok(value.to_string()),
        (Value::String(text), false) => Ok(match (text.strip_prefix("~/"), std::env::home_dir()) {
            (Some(rest), Some(home)) => home.join(rest).to_string_lossy().into_owned(),
            _ => text.clone(),
        }),
        (Value::Integer(number), false) => Ok(number.to_string()),
        (_, true) => Err("it is true or false".into()),
        (_, false) if is_list(option) => Err("it is a text, or a list of texts".into()),
        (_, false) => Err("it is a text or a number".into()),
    }
}

/// Whether the option takes these values; else what is wrong.
fn check(option: &Arg, values: &[String]) -> Result<(), String> {
    if is_switch(option) {
        // As clap has it.
        const KNOWN: [&str; 12] = ["true", "false", "yes", "no", "on", "off", "y", "n", "t", "f", "1", "0"];
        let known = |value: &String| KNOWN.iter().any(|known| value.eq_ignore_ascii_case(known));
        return if values.iter().all(known) { Ok(()) } else { Err("it is true or false".into()) };
    }
    let name = option.get_long().unwrap_or_default();
    let alone = Command::new("dft").no_binary_name(true).arg(option.clone().env(None));
    let typed = values.iter().map(|value| format!("--{name}={value}"));
    alone.try_get_matches_from(typed).map(drop).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        line.strip_prefix("error: ").unwrap_or(line).to_owned()
    })
}

/// The known name that is most like `name`, if any is.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let likeness = |known: &String| strsim::jaro_winkler(&name.replace('_', "-"), known);
    let best = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= ALIKE_MIN).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, ByteRate};

    fn parse(text: &str) -> Result<ConfigFile, Failure> {
        ConfigFile::parse(text, &Cli::command(), PathBuf::from("config.toml"))
    }

    fn fetch(file: &ConfigFile, arguments: &[&str]) -> cli::FetchArgs {
        let typed = [&["dft", "fetch", "x.dft"], arguments].concat();
        match file.read_words(typed).unwrap().command {
            Some(cli::Command::Fetch(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_file_sets_what_no_flag_sets() {
        let text = "max-upload = '5M'\nno-mdns = true\ntracker = ['a:1', 'b:2']\nport = 4700\nlinger = '1h'";
        let file = parse(text).unwrap();
        let args = fetch(&file, &[]);
        assert_eq!(args.net.max_upload, Some(ByteRate(Some(5 << 20))));
        assert_eq!(args.net.max_download, None);
        assert!(args.net.no_mdns);
        assert_eq!(args.net.tracker, ["a:1", "b:2"]);
        assert_eq!((args.net.port, args.linger.as_secs()), (Some(4700), 3600));
        let args = fetch(&file, &["--max-upload", "off", "--tracker", "c:3"]);
        assert_eq!((args.net.max_upload, args.net.tracker), (Some(ByteRate(None)), vec!["c:3".to_owned()]));
        assert!(!fetch(&parse("").unwrap(), &[]).net.no_mdns);
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        for (text, what, hint) in [
            ("max-uplod = '5M'", "«max-uplod»", "did you mean max-upload?"),
            ("max_upload = '5M'", "«max_upload»", "did you mean max-upload?"),
            ("zzz = 1", "«zzz»", "dft config show lists all"),
            ("force = true", "«force»", ""),
            ("max-upload = 'fast'", "max-upload: ", ""),
            ("max-upload = 5.5", "max-upload: it is a text or a number", ""),
            ("no-mdns = 'yes'", "no-mdns: it is true or false", ""),
            ("tracker = [['a:1']]", "tracker: ", ""),
            ("site = 'two words'", "site: ", ""),
            ("compress = 'gzip'", "compress: ", ""),
            ("port = 70000", "port: ", ""),
            ("[section]\nport = 1", "«section»", ""),
            ("port", "config.toml", "it is TOML"),
        ] {
            let failure = parse(text).expect_err(text);
            assert_eq!(failure.kind, Kind::Usage, "{text}");
            assert!(failure.message.contains(what), "{text}: {}", failure.message);
            assert!(failure.message.starts_with("config.toml: "), "{text}: {}", failure.message);
            assert!(failure.hint.unwrap_or_default().contains(hint), "{text}");
        }
    }

    #[test]
    fn every_variable_is_named_after_its_option() {
        for (name, option) in options(&Cli::command()) {
            let variable = option.get_env().unwrap().to_string_lossy().into_owned();
            let expected = format!("DFT_{}", name.to_uppercase().replace('-', "_"));
            // Where the option names a file that holds the value, the variable says so.
            let names_file = variable == format!("{expected}_FILE");
            assert!(variable == expected || names_file, "--{name}: {variable}");
        }
    }
}
