//! Random worlds: a seed chooses hosts, network and faults. First things go wrong, and nothing
//! unsafe may happen; then the faults stop, and everybody has to finish.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dft_protocol::geometry::PieceIndex;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::time::{Duration, Instant};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

use crate::world::{Conduct, Mutation, Plan, Terms, UNLIMITED, World, mbit};

/// Faults happen before this.
const FAULTS_END: Duration = Duration::from_secs(8);
/// Everybody finishes before this: the slowest dataset takes 25 s on the slowest link, silent
/// peers are noticed after 35 s, liars after a few times as long.
const DEADLINE: Duration = Duration::from_secs(400);
/// How many of its last events are told of a guilty host.
const REMEMBERED: usize = 40;

/// A rule was broken, or somebody did not finish.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What is wrong.
    pub reason: String,
    /// The host whose event was being handled, or who lacks something.
    pub host: Option<usize>,
    /// The last events of that host: `>` what it heard, `<` what it did.
    pub events: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.reason)?;
        if let Some(host) = self.host {
            writeln!(f, "the last events of host {host}:")?;
            self.events.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        write!(f, "replay: cargo run -p dft-sim -- replay {}", self.seed)
    }
}

/// What a random world gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// How much happened.
    pub events: u64,
    /// When everybody had finished and all was quiet.
    pub ended_at: Instant,
    /// Two runs are the same where theirs are.
    pub trace: u64,
}

/// Builds the world of `seed`, and runs it to its end. `mutation` is what is wrong with all honest
/// hosts, on purpose.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Result<Passed, Box<Failure>> {
    run_once(seed, mutation, 0).map_err(|failure| {
        // The same once more, with a memory: it happens again.
        let again = run_once(seed, mutation, REMEMBERED).err();
        Box::new(again.unwrap_or(failure))
    })
}

fn run_once(seed: u64, mutation: Option<Mutation>, remember: usize) -> Result<Passed, Failure> {
    let mut stage = Stage::new(seed, remember);
    stage.world.mutation = mutation;
    // Broken rules are assertions, in the swarms as well: what is left is a world to look at.
    let result = catch_unwind(AssertUnwindSafe(|| stage.play()));
    let world = &stage.world;
    match result {
        Ok(()) => Ok(Passed { events: world.events, ended_at: world.now, trace: world.record.trace }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let reason = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let events = world.acting.map(|host| world.memory(host).map(str::to_owned).collect());
            Err(Failure {
                seed,
                reason: reason.unwrap_or_else(|| "it panicked".to_owned()),
                host: world.acting,
                events: events.unwrap_or_default(),
            })
        }
    }
}

struct Dice(Xoshiro256StarStar);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0.random_range(0..below)
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.roll(chances) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }

    fn wait(&mut self, most_ms: u64) -> Duration {
        Duration::from_millis(self.0.random_range(0..most_ms))
    }

    fn time(&mut self) -> Instant {
        Instant::START + self.wait(8_000)
    }
}

/// A world, and who plays which part in it.
struct Stage {
    world: World,
    dice: Dice,
    /// A seeder that stays, so that every piece exists.
    keeper: usize,
    /// The honest hosts but the keeper.
    honest: Vec<usize>,
}

impl Stage {
    /// The world of a seed, with all faults that will happen.
    fn new(seed: u64, remember: usize) -> Self {
        let mut dice = Dice(Xoshiro256StarStar::seed_from_u64(seed));
        let lengths = lengths(&mut dice);
        let piece_count = lengths.len();
        let terms = Terms { remember, ..terms(&mut dice) };
        let mut world = World::new(terms, lengths, seed);
        let sites = dice.pick(&[1, 1, 2]);
        if sites > 1 {
            let latency = Duration::from_millis(dice.pick(&[1, 30]));
            world.add_trunk(0, 1, mbit(dice.pick(&[5, 50])), latency);
        }
        let keeper = world.seeder(mbit(10));
        let honest = (0..1 + dice.roll(4))
            .map(|_| {
                let plan = Plan { site: dice.roll(sites), ..honest_plan(&mut dice, piece_count) };
                let at = if dice.one_in(2) { Instant::START } else { dice.time() };
                world.host_at(plan, at)
            })
            .collect();
        for _ in 0..dice.pick(&[0, 0, 0, 1, 1, 2]) {
            let conduct = dice.pick(&[
                Conduct::Corrupting(1),
                Conduct::Corrupting(4),
                Conduct::Rejecting,
                Conduct::Unanswering,
                Conduct::Silent,
                Conduct::Flooding,
                Conduct::Stuck,
                Conduct::Flapping,
            ]);
            world.villain(conduct, mbit(10));
        }
        let mut stage = Self { world, dice, keeper, honest };
        stage.introduce();
        (0..stage.dice.roll(5)).for_each(|_| stage.fault());
        stage
    }

    /// Everybody knows everybody, or just the keeper, or some; with a tracker or without.
    fn introduce(&mut self) {
        let everybody: Vec<usize> = (0..self.world.hosts.len()).collect();
        if self.dice.one_in(3) {
            self.world.add_tracker();
            if self.dice.one_in(2) {
                let gone = self.dice.time();
                self.world.tracker_at(false, gone);
                let back = gone + self.dice.wait(4_000);
                self.world.tracker_at(true, back);
            }
        }
        match self.dice.roll(3) {
            0 => self.world.introduce_all(),
            1 => everybody.iter().for_each(|host| self.world.introduce(*host, &[self.keeper])),
            _ => {
                for &host in &everybody {
                    let known: Vec<usize> =
                        everybody.iter().copied().filter(|_| self.dice.one_in(2)).collect();
                    self.world.introduce(host, &known);
                }
            }
        }
    }

    /// Something goes wrong with an honest host other than the keeper, or with the network.
    fn fault(&mut self) {
        let host = self.honest[self.dice.roll(self.honest.len())];
        let at = self.dice.time();
        let everybody: Vec<usize> = (0..self.world.hosts.len()).collect();
        match self.dice.roll(5) {
            0 => self.world.crash_at(host, at),
            1 => {
                self.world.crash_at(host, at);
                let back = at + self.dice.wait(2_000);
                self.world.start_at(host, back);
                self.world.introduce_at(host, &everybody, back);
            }
            2 => {
                let other = self.dice.roll(everybody.len());
                self.world.cut_at(host, other, at);
            }
            3 => {
                let inside: Vec<usize> = everybody.into_iter().filter(|_| self.dice.one_in(2)).collect();
                self.world.separate_at(&inside, self.dice.one_in(3), at);
                let healed = at + self.dice.wait(60_000);
                self.world.heal_at(healed);
            }
            _ => {
                let geometry = self.world.datasets[0].clone();
                let lost: Vec<PieceIndex> = geometry.pieces().filter(|_| self.dice.one_in(4)).collect();
                self.world.lose_at(host, lost, at);
            }
        }
    }

    fn play(&mut self) {
        let world = &mut self.world;
        world.run_for(FAULTS_END);
        // Faults have stopped: everybody is up, and is told once more where everybody is.
        let now = world.now;
        world.heal_at(now);
        let everybody: Vec<usize> = (0..world.hosts.len()).collect();
        for &host in &everybody {
            world.start_at(host, now);
            world.introduce_at(host, &everybody, now);
        }
        world.run_for(Duration::ZERO);
        let fetching: Vec<usize> =
            self.honest.iter().copied().filter(|host| world.hosts[*host].plan.download).collect();
        world.run_until_complete(&fetching, DEADLINE);
        // A long piece whose request was taken back may still be under way.
        for _ in 0..100 {
            world.run_for(Duration::from_secs(2));
            if world.is_quiet() {
                break;
            }
        }
        world.check_quiet();
    }
}

fn lengths(dice: &mut Dice) -> Vec<u32> {
    let piece = dice.pick(&[4 << 10, 64 << 10, 64 << 10, 2 << 20]);
    let count = if piece > 1 << 20 { 1 + dice.roll(6) } else { 1 + dice.roll(24) };
    let mut lengths = vec![piece; count];
    if let Some(last) = lengths.last_mut() {
        *last = 1 + u32::try_from(dice.roll(4096)).unwrap();
    }
    lengths
}

fn terms(dice: &mut Dice) -> Terms {
    Terms {
        latency: Duration::from_micros(dice.pick(&[10, 100, 2_000, 50_000])),
        hash_delay: Duration::from_micros(dice.pick(&[10, 1_000, 150_000])),
        durable_delay: Duration::from_millis(dice.pick(&[0, 200, 5_000])),
        socket_buffer: dice.pick(&[16 << 10, 256 << 10, 512 << 10]),
        unsent_max: dice.pick(&[16 << 10, 4 << 20]),
        chunk: 64 << 10,
        upload_slots: dice.pick(&[1, 2, 4, 16]),
        ..Terms::default()
    }
}

fn honest_plan(dice: &mut Dice, piece_count: usize) -> Plan {
    let rate = |dice: &mut Dice| mbit(dice.pick(&[2, 20, 50, 1000]));
    let (up, down) = (rate(dice), rate(dice));
    let have = if dice.one_in(5) { PieceSet::full(piece_count) } else { PieceSet::empty(piece_count) };
    let download = !have.is_full() || dice.one_in(2);
    let disk = if dice.one_in(4) { mbit(40) } else { UNLIMITED };
    let latency = Duration::from_micros(dice.pick(&[0, 0, 0, 20_000]));
    Plan { down, download, disk, latency, ..Plan::new(up, have) }
}
