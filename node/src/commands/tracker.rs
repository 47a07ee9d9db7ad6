//! `dft tracker`: a tracker of its own.

use dft_tracker::server::{self, ServerConfig};
use serde_json::json;

use crate::cli::TrackerArgs;
use crate::failure::{Failure, Kind};
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
    let ready = |ready: server::Ready| {
        let addrs: Vec<String> = ready.addrs.iter().map(ToString::to_string).collect();
        reporter.event(&json!({"event": "listening", "addrs": addrs}));
        reporter.say("the tracker listens; name it to others with one of");
        for addr in &addrs {
            reporter.say(&format!("    --tracker {addr}"));
        }
    };
    let notices = |notice: dft_tracker::service::Notice| eprintln!("warning: {notice}");
    let config = ServerConfig { listen: args.listen, state: state.clone(), network_key };
    server::run(config, ready, notices, interrupted())
        .await
        .map_err(|error| Failure::new(Kind::Other, error.to_string()).hint("see --listen and --state"))
}
