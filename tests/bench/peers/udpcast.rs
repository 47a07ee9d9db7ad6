//! udpcast: the source multicasts, receivers ask again for what they missed.
//!
//! Its sender knows nothing of the network's rate, and drowns in losses unless it is told one: it
//! gets 95% of the slowest host's. A directory goes through it as a tar stream.

use super::{Need, Peer};
use crate::field::{Ends, Field, Problem};
use crate::scenario::Scenario;

const PORT: u16 = 9000;
/// Of the slowest host's rate, headers included.
const SHARE_OF_RATE: f64 = 0.95;

/// udpcast.
pub struct Udpcast;

impl Peer for Udpcast {
    fn name(&self) -> &'static str {
        "udpcast"
    }

    fn about(&self) -> &'static str {
        "udpcast's udp-sender and udp-receiver"
    }

    fn needs(&self) -> &'static [Need] {
        &[("udp-sender", "udpcast"), ("tar", "tar")]
    }

    fn refuses(&self, scenario: &Scenario) -> Option<&'static str> {
        if scenario.trunk_mbit.is_some() {
            return Some("multicast stays within one site");
        }
        matches!(scenario.twist, crate::scenario::Twist::Stagger(_))
            .then_some("all of its receivers start at once")
    }

    fn expected_x_bound(&self, scenario: &Scenario) -> f64 {
        if scenario.rates_mbit.is_empty() { 10.0 } else { 2.0 }
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let take = format!("udp-receiver --nokbd --interface eth0 --portbase {PORT}");
        let script = if field.is_tree() {
            format!("{take} | tar -xf - -C '{}'", field.copies(receiver).display())
        } else {
            format!("exec {take} --file '{}'", field.copy(receiver).display())
        };
        field.start(receiver, &mut field.shell(receiver, &script), Ends::Exits)?;
        Ok(true)
    }

    fn send(&self, field: &Field) -> Result<bool, Problem> {
        let count = field.scenario.receivers;
        let slowest = (0..=count).filter_map(|host| field.scenario.rate_mbit(host)).min();
        let rate = slowest.map_or(String::new(), |rate| {
            format!("--max-bitrate {:.0}k", f64::from(rate) * 1e3 * SHARE_OF_RATE)
        });
        let send = format!(
            "udp-sender --nokbd --interface eth0 --portbase {PORT} --min-receivers {count} --full-duplex {rate}"
        );
        let (parent, name) = (field.dataset_parent().display(), field.dataset_name());
        let script = if field.is_tree() {
            format!("tar -C '{parent}' -cf - '{name}' | {send}")
        } else {
            format!("exec {send} --file '{parent}/{name}'")
        };
        field.start(0, &mut field.shell(0, &script), Ends::Exits)?;
        Ok(true)
    }
}
