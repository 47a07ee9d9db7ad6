//! Random worlds: a seed chooses hosts, network and faults. First things go wrong, and nothing
//! unsafe may happen; then the faults stop, and everybody has to finish.

use dft_protocol::geometry::PieceIndex;
use dft_protocol::piece_set::PieceSet;
use dft_protocol::time::{Duration, Instant};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

use super::{Conduct, Plan, Terms, World, mbit};

/// Faults happen before this.
const FAULTS_END: Duration = Duration::from_secs(8);
/// Everybody finishes before this: the slowest dataset takes 25 s on the slowest link, silent
/// peers are noticed after 35 s, liars after a few times as long.
const DEADLINE: Duration = Duration::from_secs(400);

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

    fn time(&mut self) -> Instant {
        Instant::START + FAULTS_END.mul_f64(self.0.random_range(0.0..1.0))
    }
}

/// Builds the world of `seed`, and runs it to its end. Panics where a rule is broken or somebody
/// does not finish.
pub fn run(seed: u64) {
    let mut dice = Dice(Xoshiro256StarStar::seed_from_u64(seed));
    let lengths = lengths(&mut dice);
    let piece_count = lengths.len();
    let mut world = World::new(terms(&mut dice), lengths, seed);

    // The first host is a seeder that stays, so that every piece exists.
    let keeper = world.seeder(mbit(10));
    let honest = 1 + dice.roll(4);
    for _ in 0..honest {
        let plan = honest_plan(&mut dice, piece_count);
        let at = if dice.one_in(2) { Instant::START } else { dice.time() };
        world.host_at(plan, at);
    }
    for _ in 0..dice.pick(&[0, 0, 0, 1, 1, 2]) {
        let conduct = dice.pick(&[
            Conduct::Corrupting(1),
            Conduct::Corrupting(4),
            Conduct::Rejecting,
            Conduct::Unanswering,
            Conduct::Silent,
            Conduct::Flooding,
            Conduct::Stuck,
        ]);
        world.villain(conduct, mbit(10));
    }
    let everybody: Vec<usize> = (0..world.hosts.len()).collect();
    introduce(&mut world, &mut dice, keeper, &everybody);
    (0..dice.roll(5)).for_each(|_| fault(&mut world, &mut dice, honest));

    // Faults have stopped: all are told once more where everybody is.
    world.run_for(FAULTS_END);
    let now = world.now;
    for &host in &everybody {
        if world.swarm(host).is_none() {
            world.start_at(host, now);
        }
        world.introduce_at(host, &everybody, now);
    }
    let receivers: Vec<usize> = (1..=honest).filter(|host| world.hosts[*host].plan.download).collect();
    world.run_until_complete(&receivers, DEADLINE);
    // A long piece whose request was taken back may still be under way.
    for _ in 0..100 {
        world.run_for(Duration::from_secs(2));
        if world.is_quiet() {
            break;
        }
    }
    world.check_quiet();
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
        socket_buffer: dice.pick(&[16 << 10, 256 << 10, 4 << 20]),
        unsent_max: dice.pick(&[16 << 10, 4 << 20]),
        chunk: 64 << 10,
        upload_slots: dice.pick(&[1, 2, 4, 16]),
        check_every: 1,
    }
}

fn honest_plan(dice: &mut Dice, piece_count: usize) -> Plan {
    let rate = |dice: &mut Dice| mbit(dice.pick(&[2, 20, 50, 1000]));
    let (up, down) = (rate(dice), rate(dice));
    let have = if dice.one_in(5) { PieceSet::full(piece_count) } else { PieceSet::empty(piece_count) };
    let download = !have.is_full() || dice.one_in(2);
    Plan { up, down, have, download, conduct: Conduct::Honest }
}

/// Everybody knows everybody, or just the keeper, or some.
fn introduce(world: &mut World, dice: &mut Dice, keeper: usize, everybody: &[usize]) {
    match dice.roll(3) {
        0 => world.introduce_all(),
        1 => everybody.iter().for_each(|host| world.introduce(*host, &[keeper])),
        _ => {
            for &host in everybody {
                let known: Vec<usize> = everybody.iter().copied().filter(|_| dice.one_in(2)).collect();
                world.introduce(host, &known);
            }
        }
    }
}

/// Something goes wrong with an honest host other than the keeper.
fn fault(world: &mut World, dice: &mut Dice, honest: usize) {
    let host = 1 + dice.roll(honest);
    let at = dice.time();
    match dice.roll(4) {
        0 => world.crash_at(host, at),
        1 => {
            world.crash_at(host, at);
            let back = at + Duration::from_millis(10 * u64::try_from(dice.roll(200)).unwrap());
            world.start_at(host, back);
            let others: Vec<usize> = (0..world.hosts.len()).collect();
            world.introduce_at(host, &others, back);
        }
        2 => {
            let other = dice.roll(world.hosts.len());
            world.cut_at(host, other, at);
        }
        _ => {
            let lost: Vec<PieceIndex> = world.geometry.pieces().filter(|_| dice.one_in(4)).collect();
            world.lose_at(host, lost, at);
        }
    }
}
