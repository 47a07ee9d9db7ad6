//! What may be typed behind the daemon and the verbs of its namespace.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::{
    ByteRange, ByteRate, parse_duration, parse_id, parse_node_name, parse_range, parse_rate, parse_size,
};
use super::{Compress, NetArgs, SelectArgs};

/// `dft daemon`
#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// Where to keep records and copies [default: dft/HOST in the user's data directory]
    #[arg(long, value_name = "DIR", env = "DFT_STORE")]
    pub store: Option<PathBuf>,
    /// Most bytes of copies in the store: 500G
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "DFT_QUOTA")]
    pub quota: Option<u64>,
    /// Keep the catalogue: one node of a LAN does, the others find it
    #[arg(long, env = "DFT_EMBED_TRACKER", value_parser = clap::builder::BoolishValueParser::new())]
    pub embed_tracker: bool,
    /// Let whoever reaches the catalogue that this node keeps write into it: on a trusted LAN only
    #[arg(long, env = "DFT_OPEN", value_parser = clap::builder::BoolishValueParser::new())]
    pub open: bool,
    /// The file with the token that writing into the catalogue needs [default: dft/token in the
    /// user's configuration directory]
    #[arg(long, value_name = "FILE", env = "DFT_TOKEN_FILE")]
    pub token: Option<PathBuf>,
    /// The name of this node [default: that of the host]
    #[arg(long, value_name = "NAME", value_parser = parse_node_name, env = "DFT_NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub net: NetArgs,
    /// Write a systemd user unit that starts the daemon with these options, and say what to run
    #[arg(long)]
    pub install: bool,
    /// Leave the terminal's session
    #[arg(long, hide = true)]
    pub detached: bool,
    /// Print events as JSON lines on stdout
    #[arg(long)]
    pub json: bool,
}

/// `dft status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// End the daemon
    #[arg(long)]
    pub stop: bool,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `dft limit`
#[derive(Args, Debug)]
pub struct LimitArgs {
    /// Send at most so much from here on, over all datasets together: 50M, 400Mbit, or off
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub max_upload: Option<ByteRate>,
    /// Receive at most so much
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub max_download: Option<ByteRate>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `dft put`
#[derive(Args, Debug)]
pub struct PutArgs {
    /// What to publish; behind it, the name, where no file is called so
    #[arg(required = true, value_name = "PATH… [NAME]")]
    pub paths: Vec<PathBuf>,
    /// The name [default: that of PATH]
    #[arg(long)]
    pub name: Option<String>,
    /// Take the data into the store: the paths may then change or go
    #[arg(long)]
    pub copy: bool,
    /// Compress what is sent: where that is faster, wherever it is smaller, or never [default: as
    /// before, where it was put before; else auto]
    #[arg(long, value_name = "auto|zstd|off", env = "DFT_COMPRESS", hide_possible_values = true)]
    pub compress: Option<Compress>,
    /// Print events as JSON lines on stdout
    #[arg(long)]
    pub json: bool,
}

/// `dft get`
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The name of the dataset, and the directory in which it is created; with -o, any number of
    /// names. With *, ? or [ in it, a name stands for all that match
    #[arg(required = true, value_name = "NAME [DEST]")]
    pub names: Vec<OsString>,
    /// The directory in which they are created [default: DEST, or the current directory]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Create the directories that its name has as well: runs/17/out becomes DIR/runs/17/out
    #[arg(long)]
    pub parents: bool,
    /// Fetch it, and neither keep nor share it in the daemon
    #[arg(long)]
    pub peek: bool,
    /// Refuse anything but the manifest with this id
    #[arg(long, value_parser = parse_id, value_name = "ID")]
    pub id: Option<String>,
    /// Give up after this long without any progress [default: 60s with no peer, 5m with some]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, env = "DFT_TIMEOUT")]
    pub timeout: Option<Duration>,
    /// Replace what is there under its name
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub select: SelectArgs,
    /// Print events as JSON lines on stdout
    #[arg(long)]
    pub json: bool,
}

/// `dft cat`
#[derive(Args, Debug)]
pub struct CatArgs {
    /// The name of the dataset
    pub name: String,
    /// The file in it, where it is a directory
    pub path: Option<String>,
    /// Only the bytes from A up to and without B; either may be left out
    #[arg(long, value_name = "A-B", value_parser = parse_range, allow_hyphen_values = true)]
    pub range: Option<ByteRange>,
}

/// `dft append`
#[derive(Args, Debug)]
pub struct AppendArgs {
    /// The name of the dataset
    pub name: String,
    /// The local file that it is appended to; created where it is missing
    pub local: PathBuf,
    /// The file in the dataset, where that is a directory
    #[arg(long)]
    pub path: Option<String>,
    /// Print events as JSON lines on stdout
    #[arg(long)]
    pub json: bool,
}

/// `dft ls`
#[derive(Args, Debug)]
pub struct LsArgs {
    /// Names with * and ? [default: all]
    pub pattern: Option<String>,
    /// Show size, date, how many nodes hold each, completely or in part, and who has which pieces
    #[arg(short)]
    pub long: bool,
    /// Show which node has which pieces, in a line for each node
    #[arg(long)]
    pub chunks: bool,
    /// Show the files of a dataset
    #[arg(long, requires = "pattern", conflicts_with_all = ["long", "chunks"])]
    pub files: bool,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `dft nodes`
#[derive(Args, Debug)]
pub struct NodesArgs {
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `dft push`
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["to", "all"]))]
pub struct PushArgs {
    /// The name of the dataset
    pub name: String,
    /// The nodes, by name or identity
    #[arg(long, value_name = "NODE", num_args = 1..)]
    pub to: Vec<String>,
    /// Every node
    #[arg(long)]
    pub all: bool,
    /// Wait until they have all of it
    #[arg(long)]
    pub wait: bool,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `dft drop`
#[derive(Args, Debug)]
pub struct DropArgs {
    /// The name of the dataset
    pub name: String,
    /// Even where no other node has all of it
    #[arg(long)]
    pub force: bool,
    /// The dataset, where this node holds several of that name
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    pub id: Option<String>,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// `dft rm`
#[derive(Args, Debug)]
pub struct RmArgs {
    /// The name
    pub name: String,
    /// Free the name, for other content: nobody relies on the old one any more
    #[arg(long)]
    pub forget: bool,
    /// The dataset that it stands for, or stood for before it was removed
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    pub id: Option<String>,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}
