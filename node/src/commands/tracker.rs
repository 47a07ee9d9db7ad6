//! `dft tracker`: a tracker of its own.

use dft_tracker::catalogue::service::StartAs;
use dft_tracker::server::{self, CatalogueSettings, ServerConfig};
use dft_tracker::service::Notice;
use serde_json::json;

use crate::cli::TrackerArgs;
use crate::failure::{Failure, Kind};
use crate::net::discovery::parse_tracker;
use crate::report::Reporter;
use crate::secret::Secret;
use crate::session::interrupted;
use crate::settings;

pub(super) async fn run(args: TrackerArgs) -> Result<(), Failure> {
    let state = match args.state {
        Some(state) => state,
        None => settings::state_dir()?.join("tracker"),
    };
    let secret = args.secret.as_deref().map(Secret::read).transpose()?;
    let network_key = secret.as_ref().map(Secret::network_key);
    settings::create_private_dir(&state)?;
    let reporter = Reporter::new(args.json);
    let follows = args.follow.is_some();
    let ready = |ready: server::Ready| {
        let addrs: Vec<String> = ready.addrs.iter().map(ToString::to_string).collect();
        let token = ready.token.as_ref().map(|token| token.display().to_string());
        reporter.event(&json!({"event": "listening", "addrs": addrs, "token_file": token}));
        reporter.say("the tracker listens; name it to others with one of");
        for addr in &addrs {
            reporter.say(&format!("    --tracker {addr}"));
        }
        match &ready.token {
            _ if follows => reporter.say("names are put at the tracker that it copies"),
            Some(token) => {
                reporter.say(&format!("who puts names needs the token in {}", token.display()));
            }
            None => reporter.say("whoever reaches it may put names"),
        }
    };
    let notices = |notice: Notice| match notice {
        Notice::Follows { .. } => eprintln!("{notice}"),
        _ => eprintln!("warning: {notice}"),
    };
    let start_as = match args.follow {
        Some(leader) => {
            let leader =
                parse_tracker(&leader).map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
            StartAs::Follow(leader.to_string())
        }
        None if args.promote => StartAs::Promoted,
        None => StartAs::AsBefore,
    };
    let catalogue = Some(CatalogueSettings { open: args.open, start_as });
    let config = ServerConfig { listen: args.listen, state: state.clone(), network_key, catalogue };
    server::run(config, ready, notices, interrupted())
        .await
        .map_err(|error| Failure::new(Kind::Other, error.to_string()).hint("see --listen and --state"))
}
