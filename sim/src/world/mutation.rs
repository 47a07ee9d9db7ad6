//! Mistakes planted on purpose: what would the simulator say of a swarm that has this bug?
//!
//! The swarm itself stays as it is. What goes into it and what comes out is changed on the way, as
//! if the rule behind it were broken. `tests/mutations.rs` runs each of them until some seed of the
//! random worlds catches it.

use dft_protocol::geometry::{Geometry, PieceIndex};
use dft_protocol::swarm::{Command, Event};
use dft_protocol::wire::{Message, PieceList};

/// A rule that the honest hosts of a world break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// Requests are never taken back.
    ForgetsCancel,
    /// Late pieces, dead links and stalled peers are never noticed.
    NeverRetries,
    /// A piece counts though its hash is wrong.
    CountsUnverified,
    /// The last piece of a dataset is not noticed when it comes.
    LosesTheLastPiece,
    /// What is announced is one piece off.
    AnnouncesTheNextPiece,
    /// What is requested is one piece off.
    RequestsTheNextPiece,
    /// Every request is made twice.
    RequestsTwice,
    /// Requests do not die with their link.
    KeepsDeadLinks,
    /// A request that cannot be served stays without an answer.
    NeverRejects,
    /// Pieces that were lost stay announced.
    NeverTakesBack,
    /// The wrong piece is sent.
    SendsTheNextPiece,
    /// Upload slots are never free again.
    KeepsSlots,
    /// Pieces are not announced once they are here.
    NeverAnnounces,
    /// A corrupt piece is not asked for again.
    IgnoresCorruption,
}

/// The piece behind `piece`, the first one behind the last.
fn next(piece: PieceIndex, geometry: &Geometry) -> PieceIndex {
    let next = u64::from(piece.to_u32()) + 1;
    geometry.piece(next).or_else(|| geometry.piece(0)).unwrap_or(piece)
}

fn shifted(list: &PieceList, geometry: &Geometry) -> PieceList {
    let pieces = list.pieces().iter().map(|piece| next(*piece, geometry)).collect();
    PieceList::new(pieces).unwrap_or_else(|| list.clone())
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 14] = [
        Mutation::ForgetsCancel,
        Mutation::NeverRetries,
        Mutation::CountsUnverified,
        Mutation::LosesTheLastPiece,
        Mutation::AnnouncesTheNextPiece,
        Mutation::RequestsTheNextPiece,
        Mutation::RequestsTwice,
        Mutation::KeepsDeadLinks,
        Mutation::NeverRejects,
        Mutation::NeverTakesBack,
        Mutation::SendsTheNextPiece,
        Mutation::KeepsSlots,
        Mutation::NeverAnnounces,
        Mutation::IgnoresCorruption,
    ];

    /// Whether the swarm hears that time passes.
    pub(super) fn hears_time(self) -> bool {
        self != Mutation::NeverRetries
    }

    /// What the swarm hears in place of `event`.
    pub(super) fn event(self, event: Event, geometry: &Geometry) -> Option<Event> {
        let last = geometry.pieces().next_back();
        match (self, event) {
            (Mutation::CountsUnverified, Event::PieceChecked { link, piece, .. }) => {
                Some(Event::PieceChecked { link, piece, valid: true })
            }
            (Mutation::LosesTheLastPiece, Event::PieceChecked { piece, .. }) if Some(piece) == last => None,
            (Mutation::IgnoresCorruption, Event::PieceChecked { valid: false, .. })
            | (Mutation::KeepsDeadLinks, Event::LinkDown { .. })
            | (Mutation::KeepsSlots, Event::PieceSent { .. }) => None,
            (_, event) => Some(event),
        }
    }

    /// What the driver carries out in place of `command`.
    pub(super) fn commands(self, command: Command, geometry: &Geometry) -> Vec<Command> {
        let Command::Send { link, message } = command else {
            return match (self, command) {
                (Mutation::SendsTheNextPiece, Command::SendPiece { link, piece }) => {
                    vec![Command::SendPiece { link, piece: next(piece, geometry) }]
                }
                (_, command) => vec![command],
            };
        };
        let send = |message| vec![Command::Send { link, message }];
        match (self, &message) {
            (Mutation::ForgetsCancel, Message::Cancel(_))
            | (Mutation::NeverRejects, Message::Reject(..))
            | (Mutation::NeverTakesBack, Message::Lost(_))
            | (Mutation::NeverAnnounces, Message::Have(_)) => Vec::new(),
            (Mutation::AnnouncesTheNextPiece, Message::Have(list)) => {
                send(Message::Have(shifted(list, geometry)))
            }
            (Mutation::RequestsTheNextPiece, Message::Request(list)) => {
                send(Message::Request(shifted(list, geometry)))
            }
            (Mutation::RequestsTwice, Message::Request(_)) => [send(message.clone()), send(message)].concat(),
            _ => send(message),
        }
    }
}
