//! What a run leaves behind: counts over time for the pictures, a sum of everything that happened
//! for comparing runs, and the last events of each host for whoever reads a failure.

use std::collections::VecDeque;

use dft_protocol::time::{Duration, Instant};

/// Most rows that are kept: when there are more, two become one.
const ROWS_MAX: usize = 400;

/// What happened in one stretch of time. All in bytes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Row {
    /// Sent on all wires, headers included.
    pub carried: u64,
    /// Sent over trunks, headers included.
    pub crossed: u64,
    /// Sent by hosts that were complete from the start, pieces only.
    pub seeded: u64,
    /// Verified by all hosts.
    pub verified: u64,
}

/// Counts over time, and the sum of a run.
#[derive(Debug)]
pub struct Record {
    /// How long a row is.
    pub row: Duration,
    /// Rows from the start on.
    pub rows: Vec<Row>,
    /// Sums over all rows.
    pub total: Row,
    /// A hash of everything that happened: two runs are the same where theirs are.
    pub trace: u64,
}

impl Default for Record {
    fn default() -> Self {
        Self { row: Duration::from_millis(1), rows: Vec::new(), total: Row::default(), trace: 0 }
    }
}

impl Record {
    fn add(&mut self, now: Instant, change: impl Fn(&mut Row)) {
        change(&mut self.total);
        let mut index = self.index(now);
        while index >= ROWS_MAX {
            self.row *= 2;
            self.rows = self.rows.chunks(2).map(sum).collect();
            index = self.index(now);
        }
        if index >= self.rows.len() {
            self.rows.resize(index + 1, Row::default());
        }
        change(&mut self.rows[index]);
    }

    fn index(&self, now: Instant) -> usize {
        usize::try_from(now.as_nanos() / u64::try_from(self.row.as_nanos()).unwrap_or(1))
            .unwrap_or(usize::MAX)
    }

    pub(super) fn carried(&mut self, now: Instant, len: u64) {
        self.add(now, |row| row.carried += len);
    }

    pub(super) fn crossed(&mut self, now: Instant, len: u64) {
        self.add(now, |row| row.crossed += len);
    }

    pub(super) fn seeded(&mut self, now: Instant, len: u64) {
        self.add(now, |row| row.seeded += len);
    }

    pub(super) fn verified(&mut self, now: Instant, len: u64) {
        self.add(now, |row| row.verified += len);
    }

    /// Takes note of something that happened. (FNV-1a over 64-bit words, with a final shift: cheap,
    /// and each bit counts.)
    pub(super) fn trace(&mut self, words: &[u64]) {
        for word in words {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01B3);
            self.trace ^= self.trace >> 29;
        }
    }
}

fn sum(rows: &[Row]) -> Row {
    let add = |a: Row, b: &Row| Row {
        carried: a.carried + b.carried,
        crossed: a.crossed + b.crossed,
        seeded: a.seeded + b.seeded,
        verified: a.verified + b.verified,
    };
    rows.iter().fold(Row::default(), add)
}

/// The last events of a host, oldest first.
#[derive(Debug, Default)]
pub(super) struct Memory {
    lines: VecDeque<String>,
}

impl Memory {
    /// Adds a line; the oldest is forgotten where there are more than `limit`.
    pub(super) fn note(&mut self, limit: usize, line: String) {
        self.lines.push_back(line);
        while self.lines.len() > limit {
            self.lines.pop_front();
        }
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_grow_together_and_lose_nothing() {
        let mut record = Record::default();
        for ms in 0..5000 {
            record.carried(Instant::START + Duration::from_millis(ms), 7);
        }
        assert!(record.rows.len() <= ROWS_MAX);
        assert_eq!(record.rows.iter().map(|row| row.carried).sum::<u64>(), 35_000);
        assert_eq!(record.total.carried, 35_000);
    }
}
