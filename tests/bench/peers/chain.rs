//! A pipeline that does nothing but copy: each host stores what it receives and passes it on.
//!
//! A directory goes through it as a tar stream, which every host unpacks beside passing it on.

use super::{Need, Peer};
use crate::field::{Ends, Field, Problem};
use crate::scenario::Scenario;

const PORT: u16 = 7700;
/// A pipe gives what it has: tar is to wait for whole records.
const UNPACK: &str = "tar --extract --read-full-records --file -";

/// By which program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `nc | tee | nc`: what is everywhere.
    Nc,
    /// `mbuffer`, which has a buffer of its own and threads around it.
    Mbuffer,
}

/// A chain of one of them.
pub struct Chain {
    pub program: Program,
}

impl Peer for Chain {
    fn name(&self) -> &'static str {
        match self.program {
            Program::Nc => "nc",
            Program::Mbuffer => "mbuffer",
        }
    }

    fn about(&self) -> &'static str {
        match self.program {
            Program::Nc => "a chain of nc | tee | nc",
            Program::Mbuffer => "a chain of mbuffer",
        }
    }

    fn needs(&self) -> &'static [Need] {
        match self.program {
            Program::Nc => &[("nc", "netcat-openbsd"), ("tar", "tar")],
            Program::Mbuffer => &[("mbuffer", "mbuffer"), ("tar", "tar")],
        }
    }

    fn expected_x_bound(&self, _scenario: &Scenario) -> f64 {
        1.2
    }

    fn receive(&self, field: &Field, receiver: usize) -> Result<bool, Problem> {
        let next = (receiver < field.scenario.receivers).then(|| field.address(receiver + 1));
        let (take, pass) = match self.program {
            Program::Nc => (format!("nc -l {PORT}"), next.map(|next| format!("nc -N {next} {PORT}"))),
            Program::Mbuffer => {
                let pass = next.map(|next| format!("mbuffer -q -m 4M -s 256k -O {next}:{PORT}"));
                (format!("mbuffer -q -m 4M -s 256k -I {PORT}"), pass)
            }
        };
        let (copies, copy) = (field.copies(receiver), field.copy(receiver));
        let (copies, copy) = (copies.display(), copy.display());
        let script = match (field.is_tree(), pass) {
            (false, Some(pass)) => format!("{take} | tee '{copy}' | {pass}"),
            (false, None) => format!("{take} > '{copy}'"),
            // The host is done when both have ended: who unpacks, and who passes on.
            (true, Some(pass)) => format!(
                "mkfifo unpack; {{ {UNPACK} -C '{copies}' && cat > /dev/null; }} < unpack & unpacks=$!; \
                 {take} | tee unpack | {pass}; wait $unpacks"
            ),
            (true, None) => format!("{take} | {UNPACK} -C '{copies}'"),
        };
        let process = field.start(receiver, &mut field.shell(receiver, &script), Ends::Exits)?;
        field.wait_for_port(process, PORT)?;
        Ok(true)
    }

    fn send(&self, field: &Field) -> Result<bool, Problem> {
        let first = field.address(1);
        let send = match self.program {
            Program::Nc => format!("nc -N {first} {PORT}"),
            Program::Mbuffer => format!("mbuffer -q -m 4M -s 256k -O {first}:{PORT}"),
        };
        let (parent, name) = (field.dataset_parent().display(), field.dataset_name());
        let script = if field.is_tree() {
            format!("tar -C '{parent}' -cf - '{name}' | {send}")
        } else {
            format!("{send} < '{parent}/{name}'")
        };
        field.start(0, &mut field.shell(0, &script), Ends::Exits)?;
        Ok(true)
    }

    fn last_receiver_first(&self) -> bool {
        true
    }
}
