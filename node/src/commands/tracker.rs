//! `dft tracker`: a tracker of its own.

use dft_tracker::catalogue::service::StartAs;
use dft_tracker::server::{self, CatalogueSettings, ServerConfig, ServerError};
use dft_tracker::service::{Notice, ServiceError};
use dft_tracker::state::{StateDir, StateError};
use serde_json::json;

use crate::cli::TrackerArgs;
use crate::failure::{Failure, Kind, hint_for};
use crate::net::discovery::parse_tracker;
use crate::report::{Reporter, to_stderr};
use crate::secret::Secret;
use crate::session::{cannot_listen, interrupted, no_tracker};
use crate::settings;
use crate::token;

pub(super) async fn run(args: TrackerArgs) -> Result<(), Failure> {
    let state = match args.state {
        Some(state) => state,
        None => settings::state_dir()?.join("tracker"),
    };
    let secret = args.secret.as_deref().map(Secret::read).transpose()?;
    let network_key = secret.as_ref().map(Secret::network_key);
    settings::create_given_dir(&state)?;
    let reporter = Reporter::new(args.json);
    let follows = args.follow.is_some();
    // Members of a private cluster need no token, unless one is asked for.
    let open = args.open || secret.is_some() && args.token.is_none();
    let token = if open {
        None
    } else {
        // Nothing of a tracker that runs is touched.
        drop(StateDir::open(&state).map_err(|error| failure_of(&error.into()))?);
        Some(token::settle(args.token.as_deref(), &state)?)
    };
    let ready = |ready: server::Ready| {
        let addrs: Vec<String> = ready.addrs.iter().map(ToString::to_string).collect();
        let token_file = token.as_ref().map(|token| token.display().to_string());
        reporter.event(&json!({"event": "listening", "addrs": addrs, "token_file": token_file}));
        reporter.say("the tracker listens; name it to others with one of");
        for addr in &addrs {
            reporter.say(&format!("    --tracker {addr}"));
        }
        match &token {
            _ if follows => reporter.say("names are put at the tracker that it copies"),
            Some(token) => reporter.say(&token::advice(token)),
            None if secret.is_some() => reporter.say("whoever has the secret may put names"),
            None => reporter.say("whoever reaches it may put names"),
        }
    };
    let notices = |notice: Notice| match notice {
        Notice::Follows { .. } => to_stderr(&notice.to_string()),
        _ => to_stderr(&format!("warning: {notice}")),
    };
    let start_as = match args.follow {
        Some(leader) => {
            let leader = parse_tracker(&leader).map_err(no_tracker)?;
            StartAs::Follow(leader.to_string())
        }
        None if args.promote => StartAs::Promoted,
        None => StartAs::AsBefore,
    };
    let catalogue = Some(CatalogueSettings { open, start_as });
    let config = ServerConfig { listen: args.listen, state: state.clone(), network_key, catalogue };
    server::run(config, ready, notices, interrupted()).await.map_err(|error| failure_of(&error))
}

fn failure_of(error: &ServerError) -> Failure {
    let message = error.to_string();
    match error {
        ServerError::Listen { error, .. } => cannot_listen(message, error.kind()).hint_else(
            "another program, maybe a tracker, has this port: choose another with --listen IP:PORT",
        ),
        ServerError::State(state) | ServerError::Service(ServiceError::State(state)) => match state {
            StateError::InUse(_) => Failure::new(Kind::Disk, message)
                .hint("stop that one, or give this one a directory of its own with --state DIR"),
            StateError::Io { error, .. } => Failure::new(Kind::Disk, message)
                .hint(hint_for(error.kind()).unwrap_or("--state DIR names another place for what it keeps")),
            StateError::TokenReadable(_) => Failure::new(Kind::Usage, message).hint(
                "whoever has read it can write names: with a new token (remove the file), nobody else can",
            ),
            StateError::Identity(_) | StateError::Token(_) => Failure::new(Kind::Disk, message)
                .hint("with another one, its address or its token in use elsewhere is not good any more"),
        },
        _ => Failure::new(Kind::Other, message).hint("see --listen and --state"),
    }
}
