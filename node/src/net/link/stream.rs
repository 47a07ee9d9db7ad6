//! Who may write a long piece while it arrives.
//!
//! A long piece is on disk before its hash is known, so only one link may put it there: the one
//! that was asked last. Being asked is a *turn*. Whoever had the turn before may still be at work,
//! or have a block that waits; nothing of it is written after the first block of the next turn.
//! A link that is asked again for the same piece has another turn: what was left of the first
//! one counts for nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dft_protocol::geometry::PieceIndex;

/// The long pieces that were asked for. At most one entry per piece: it goes when somebody's turn
/// ends with the whole piece.
#[derive(Default)]
pub(super) struct Streams(Mutex<HashMap<PieceIndex, Arc<Place>>>);

/// Where one long piece is written.
#[derive(Default)]
struct Place {
    /// Whose turn it is; turns are counted.
    turn: AtomicU64,
    /// Held while one block is written: the next turn begins on disk when the last write of the
    /// turn before it is over, and whoever asks need not wait for that.
    writing: Mutex<()>,
}

/// The turn of one link to write one long piece. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stream {
    piece: PieceIndex,
    place: Arc<Place>,
    turn: u64,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<PieceIndex, Arc<Place>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link is asked for a long piece: from here on it is its turn, and no one else's.
    pub(super) fn begin(&self, piece: PieceIndex) -> Stream {
        let mut places = self.lock();
        let place = places.entry(piece).or_default().clone();
        let turn = place.turn.fetch_add(1, Ordering::AcqRel) + 1;
        Stream { piece, place, turn }
    }

    /// All of the piece was written, right or wrong. Nobody else's write can be under way: the
    /// first block of this turn waited for it.
    pub(super) fn end(&self, stream: &Stream) {
        let mut places = self.lock();
        if stream.is_current() && places.get(&stream.piece).is_some_and(|at| Arc::ptr_eq(at, &stream.place)) {
            places.remove(&stream.piece);
        }
    }
}

impl Stream {
    /// The piece that it is the turn for.
    pub(super) fn piece(&self) -> PieceIndex {
        self.piece
    }

    /// Whether nobody was asked for the piece since, and the turn was not given up.
    pub(super) fn is_current(&self) -> bool {
        self.place.turn.load(Ordering::Acquire) == self.turn
    }

    /// The request was taken back.
    pub(super) fn give_up(&self) {
        let _ =
            self.place.turn.compare_exchange(self.turn, self.turn + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Does this where it is still this turn; no write of another turn is under way meanwhile.
    pub(super) fn while_current<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let _writing = self.place.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_current().then(act)
    }
}

#[cfg(test)]
mod tests {
    use dft_protocol::geometry::Geometry;

    use super::*;

    fn piece() -> PieceIndex {
        Geometry::new(vec![2 << 20]).expect("a geometry").pieces().next().expect("a piece")
    }

    #[test]
    fn a_turn_ends_when_another_is_asked() {
        let streams = Streams::default();
        let (first, second) = (streams.begin(piece()), streams.begin(piece()));
        assert_eq!(first.while_current(|| "written"), None);
        assert_eq!(second.while_current(|| "written"), Some("written"));
        first.give_up();
        assert!(second.is_current(), "what is not one's own cannot be given up");
        streams.end(&first);
        assert!(Arc::ptr_eq(&streams.begin(piece()).place, &second.place), "nor ended");
    }

    #[test]
    fn an_ended_or_given_up_turn_never_comes_back() {
        let streams = Streams::default();
        let first = streams.begin(piece());
        first.give_up();
        assert_eq!(first.while_current(|| ()), None);
        let second = streams.begin(piece());
        assert!(second.is_current() && !first.is_current());
        streams.end(&second);
        assert!(streams.lock().is_empty());
        let third = streams.begin(piece());
        assert!(third.is_current() && !first.is_current());
    }

    #[test]
    fn who_is_asked_next_writes_after_a_write_that_is_under_way() {
        let streams = Streams::default();
        let first = streams.begin(piece());
        let written = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let next = first.while_current(|| {
                let next = streams.begin(piece());
                let (started, has_started) = std::sync::mpsc::channel();
                let (next, written) = (next, &written);
                let waiting = scope.spawn(move || {
                    started.send(()).expect("somebody waits");
                    next.while_current(|| written.lock().expect("no panic").push("second"));
                });
                has_started.recv().expect("it starts");
                written.lock().expect("no panic").push("first");
                waiting
            });
            next.expect("it was the first one's turn").join().expect("no panic");
        });
        assert_eq!(written.into_inner().expect("no panic"), ["first", "second"]);
    }
}
