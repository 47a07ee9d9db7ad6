//! What may be typed: the command line, and nothing about what it does.

mod namespace;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dft_protocol::geometry::PieceSize;
use dft_protocol::wire::Site;
use serde::{Deserialize, Serialize};

pub use self::namespace::{
    AppendArgs, CatArgs, DaemonArgs, DropArgs, GetArgs, LimitArgs, LsArgs, NodesArgs, PushArgs, PutArgs,
    RmArgs, StatusArgs,
};
pub use self::values::{ByteRange, ByteRate};
use self::values::{
    parse_duration, parse_piece_size, parse_rate, parse_site, parse_socket_addr, parse_some_size,
};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  anything that has no code of its own, as a port that is taken
  2  wrong usage: also a path that is not there
  3  the manifest is missing, damaged or not valid
  4  no source: nobody has the data, or all refuse
  5  the disk: full, read-only, in use, or failing, or it may not be read
  6  integrity: the data is not what the manifest says
  7  the catalogue does not know the name, or has other content under it
  130  interrupted before it was complete; run the same command again to go on";

/// Sends files and datasets to every machine of a small network, at the speed of the network.
#[derive(Parser, Debug)]
#[command(
    name = "dft",
    version,
    about,
    after_help = EXIT_CODES,
    max_term_width = 100,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Do several things, one after the other: 'put a, ls -l, get b'
    #[arg(short = 'c', value_name = "VERBS")]
    pub batch: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// One verb each.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Hash files or directories, write NAME.dft, and serve them until interrupted
    Seed(SeedArgs),
    /// Fetch what a manifest describes, and share it meanwhile
    Fetch(FetchArgs),
    /// Run a tracker of its own, for networks without multicast and beyond one LAN
    Tracker(TrackerArgs),
    /// Show what a manifest holds
    Show(ShowArgs),
    /// Check a file or directory against its manifest
    Verify(VerifyArgs),
    /// Show where the time of a run went: reads what seed and fetch recorded with --trace
    Trace(TraceArgs),
    /// Watch a whole swarm at work on this machine: one seeder, several peers
    Demo(DemoArgs),
    /// Make the secret of a private cluster
    Secret(SecretArgs),
    /// Show what is set by the configuration file and the environment
    Config(ConfigArgs),
    /// Run a small node that holds datasets and shares them under names: for put, get, ls, …
    Daemon(DaemonArgs),
    /// Show what this node's daemon holds and does
    Status(StatusArgs),
    /// Show how fast the daemon may send and receive, or change it
    Limit(LimitArgs),
    /// Publish files or directories under a name, once and for all
    Put(PutArgs),
    /// Fetch a dataset by its name, and share it from then on
    Get(GetArgs),
    /// Write a file of a dataset to stdout, while it is being fetched
    Cat(CatArgs),
    /// Append a file of a dataset to a local one
    Append(AppendArgs),
    /// List the names that there are
    Ls(LsArgs),
    /// List the nodes that there are
    Nodes(NodesArgs),
    /// Make other nodes fetch a dataset
    Push(PushArgs),
    /// Give a dataset up on this node
    Drop(DropArgs),
    /// Remove a name from the catalogue, for all
    Rm(RmArgs),
    /// Type verbs at a prompt, with history and completion
    Shell,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
}

/// On or off.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// On
    On,
    /// Off
    Off,
}

/// Whether data is sent in compressed form.
#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compress {
    /// Where it makes a piece smaller and the link is slower than the compressor
    #[default]
    Auto,
    /// Wherever it makes a piece smaller
    Zstd,
    /// Never
    Off,
}

/// How to take part in the network; the same for all who do.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct NetArgs {
    /// Listen on this address only; a loopback address also turns mDNS off
    #[arg(long, value_name = "IP", default_value = "0.0.0.0", env = "DFT_LISTEN", help_heading = "Network")]
    pub listen: IpAddr,
    /// Listen on TCP port N for links, N+1 for peers and trackers [default: any that is free]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=65534), env = "DFT_PORT", help_heading = "Network")]
    pub port: Option<u16>,
    /// Ask this tracker: HOST:PORT or a multiaddress; may be repeated
    #[arg(long, value_name = "ADDR", env = "DFT_TRACKER", value_delimiter = ',', help_heading = "Network")]
    pub tracker: Vec<String>,
    /// Don't look for peers by multicast
    #[arg(
        long,
        env = "DFT_NO_MDNS",
        value_parser = clap::builder::BoolishValueParser::new(),
        help_heading = "Network"
    )]
    pub no_mdns: bool,
    /// Encrypt links; both ends must agree
    #[arg(
        long,
        value_name = "on|off",
        default_value = "on",
        env = "DFT_ENCRYPTION",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub encryption: Switch,
    /// A label of the place where this machine is: peers of one site prefer each other
    #[arg(long, value_name = "LABEL", value_parser = parse_site, env = "DFT_SITE", help_heading = "Network")]
    pub site: Option<Site>,
    /// The secret of a private cluster: only with those who have it as well
    #[arg(long, value_name = "FILE", env = "DFT_SECRET_FILE", help_heading = "Network")]
    pub secret: Option<PathBuf>,
    /// Send at most so much: bytes per second as 500K, 50M, 1G, bits as 400Mbit, or off [default: off]
    #[arg(long, value_name = "RATE", value_parser = parse_rate, env = "DFT_MAX_UPLOAD", help_heading = "Network")]
    pub max_upload: Option<ByteRate>,
    /// Receive at most so much
    #[arg(long, value_name = "RATE", value_parser = parse_rate, env = "DFT_MAX_DOWNLOAD", help_heading = "Network")]
    pub max_download: Option<ByteRate>,
}

/// Which files of a dataset.
#[derive(Args, Clone, Debug, Default)]
pub struct SelectArgs {
    /// Only what GLOB matches, in the dataset or by its name alone, and what such directories hold;
    /// may be repeated
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Nothing that GLOB matches, and nothing in such directories; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
}

/// `dft seed`
#[derive(Args, Debug)]
pub struct SeedArgs {
    /// The files and directories to serve, in place
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Where to write the manifest [default: NAME.dft in the current directory]
    #[arg(short, long, value_name = "NAME.dft")]
    pub output: Option<PathBuf>,
    /// The name under which it is fetched [default: that of PATH, or of the manifest]
    #[arg(long)]
    pub name: Option<String>,
    /// The size of a piece, a power of two from 4K to 16M [default: by the total size]
    #[arg(long, value_name = "SIZE", value_parser = parse_piece_size)]
    pub piece_size: Option<PieceSize>,
    /// Compress what is sent: where that is faster, wherever it is smaller, or never
    #[arg(
        long,
        value_name = "auto|zstd|off",
        default_value = "auto",
        env = "DFT_COMPRESS",
        hide_possible_values = true
    )]
    pub compress: Compress,
    /// Leave when N peers have said that they have everything; each counts once
    #[arg(long, value_name = "N")]
    pub exit_after_copies: Option<u64>,
    /// Hash everything again, even what looks unchanged
    #[arg(long)]
    pub rehash: bool,
    /// Leave out symbolic links that point outside of the dataset, rather than fail
    #[arg(long)]
    pub skip_unsafe: bool,
    /// Do it in this process, even where a daemon runs that could
    #[arg(long)]
    pub standalone: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub net: NetArgs,
    /// Print events as JSON lines on stdout
    #[arg(long)]
    pub json: bool,
    /// Record what happens, and when, in this file; dft trace reads it
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// `dft fetch`
#[derive(Args, Debug)]
pub struct FetchArgs {
    /// The manifest: NAME.dft
    pub manifest: PathBuf,
    /// The directory in which NAME is created
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub select: SelectArgs,
    /// A peer that may have the data: HOST:PORT; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub peer: Vec<String>,
    /// When complete, share for up to this long while connected peers still need something
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration, env = "DFT_LINGER")]
    pub linger: Duration,
    /// Give up after this long without any progress [default: 60s with no peer, 5m with some]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, env = "DFT_TIMEOUT")]
    pub timeout: Option<Duration>,
    /// Replace what is there under that name, once the fetch is complete
    #[arg(long)]
    pub force: bool,
    /// Do it in this process, even where a daemon runs that could
    #[arg(long)]
    pub standalone: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub net: NetArgs,
    /// Print events as JSON lines on stdout
    #[arg(long)]
    pub json: bool,
    /// Record what happens, and when, in this file; dft trace reads it
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// `dft tracker`
#[derive(Args, Debug)]
pub struct TrackerArgs {
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:4711", value_parser = parse_socket_addr)]
    pub listen: SocketAddr,
    /// Where its state is kept [default: dft/tracker in the user's state directory]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The secret of a private cluster: only for those who have it as well
    #[arg(long, value_name = "FILE", env = "DFT_SECRET_FILE")]
    pub secret: Option<PathBuf>,
    /// Let whoever reaches the tracker write into the catalogue: on a trusted LAN only
    #[arg(long, env = "DFT_OPEN", value_parser = clap::builder::BoolishValueParser::new())]
    pub open: bool,
    /// The file with the token that writing into the catalogue needs, made where it is missing
    /// [default: dft/token in the user's configuration directory]
    #[arg(long, value_name = "FILE", env = "DFT_TOKEN_FILE")]
    pub token: Option<PathBuf>,
    /// Copy the catalogue of this tracker, and answer reads from the copy: HOST:PORT or a multiaddress
    #[arg(long, value_name = "ADDR")]
    pub follow: Option<String>,
    /// Take writes from here on, where this was a copy
    #[arg(long, conflicts_with = "follow")]
    pub promote: bool,
    /// Print events as JSON lines on stdout
    #[arg(long)]
    pub json: bool,
}

/// `dft show`
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The manifest: NAME.dft
    pub manifest: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub select: SelectArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `dft verify`
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The manifest: NAME.dft
    pub manifest: PathBuf,
    /// The file or directory to check, or the directory that holds it [default: here]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub select: SelectArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `dft trace`
#[derive(Args, Debug)]
pub struct TraceArgs {
    /// Traces of one swarm, as --trace wrote them: one file a node
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The rate of each node's link in Mbit/s: adds the distance to the bound
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Draw it, in SVG
    #[arg(long, value_name = "OUT.svg")]
    pub plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `dft config`
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What there is to do with the configuration.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Show each setting, and where its value comes from
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `dft secret`
#[derive(Args, Debug)]
pub struct SecretArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SecretCommand,
}

/// What there is to do with secrets.
#[derive(Subcommand, Debug)]
pub enum SecretCommand {
    /// Write a new secret into a file that only you can read
    New {
        /// The file; it must not exist
        #[arg(default_value = "dft.secret")]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `dft demo`
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// What to send [default: a generated dataset]
    pub path: Option<PathBuf>,
    /// How many peers fetch it
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub peers: u16,
    /// The size of the generated dataset
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_some_size, conflicts_with = "path")]
    pub size: u64,
    /// Encrypt links
    #[arg(long, value_name = "on|off", default_value = "on", hide_possible_values = true)]
    pub encryption: Switch,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
