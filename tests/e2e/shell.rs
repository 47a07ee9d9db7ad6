//! Prompts, batches, daemons that verbs start, and who may speak to a daemon.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use dft::daemon::wire::{self, Request};

use crate::lab::process::PATIENCE;
use crate::lab::scene::Scene;
use crate::lab::{Lab, data};
use crate::node::{nodes, text_of, until};
use crate::steps::MIB;

/// Which user somebody else is.
const NOBODY: &str = "65534";
/// Names the socket to the test that plays somebody else.
const NEIGHBOUR: &str = "DFT_PROBE_SOCKET";

#[test]
fn verbs_start_a_daemon_where_none_runs() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let node = || scene.dft_on(lab.host(0), "lonely");
    assert!(node().arg("status").run().expect_code(1).stderr.contains("no daemon runs"));
    // Nobody keeps a catalogue here: it says so, and the daemon stays.
    let outcome = node().arg("ls").run().expect_code(4);
    assert!(outcome.stderr.contains("started a daemon"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--embed-tracker"), "{}", outcome.stderr);
    let status = node().args(["status", "--json"]).run().expect_code(0);
    assert_eq!(status.event("status").texts("trackers"), Vec::<String>::new());
    assert!(node().arg("daemon").run().expect_code(5).stderr.contains("a daemon runs already"));
    let stopped = node().args(["status", "--stop"]).run().expect_code(0);
    assert!(stopped.stderr.contains("the daemon ends"), "{}", stopped.stderr);
    until("its end", || node().arg("status").run().code == Some(1));
}

#[test]
fn user_has_one_daemon_however_he_logged_in() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    // Longer than the path of a socket may be.
    let name = "lonely ".repeat(16);
    let node = || scene.dft_on(lab.host(0), &name);
    let session = scene.new_directory("session");
    let daemon = node().args(["daemon", "--json"]).env("XDG_RUNTIME_DIR", &session).start();
    daemon.wait_for("ready");
    std::fs::remove_dir_all(&session).expect("it ends with its session");
    let status = node().args(["status", "--json"]).run().expect_code(0);
    let store = status.event("status").text("store").to_owned();
    let second = node().arg("daemon").run().expect_code(5);
    let pid = status.event("status").number("pid");
    assert!(second.stderr.contains(&format!("a daemon runs already (pid {pid})")), "{}", second.stderr);
    // Another user's, or that of another host where homes are shared.
    let other = scene.dft_on(lab.host(0), "other").args(["daemon", "--store", &store]).run().expect_code(5);
    assert!(other.stderr.contains(&format!("another daemon (pid {pid} on host ")), "{}", other.stderr);
}

#[test]
fn daemon_on_demand_finds_the_files_that_variables_name_from_where_its_user_is() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let node = || scene.dft_on(lab.host(0), "lonely").env("DFT_SECRET_FILE", "key").env("DFT_STORE", "store");
    node().args(["secret", "new", "key"]).run().expect_code(0);
    let outcome = node().arg("ls").run().expect_code(4);
    assert!(outcome.stderr.contains("started a daemon"), "{}", outcome.stderr);
    let status = node().args(["status", "--json"]).run().expect_code(0);
    assert_eq!(Path::new(status.event("status").text("store")), node().directory().join("store"));
    node().args(["status", "--stop"]).run().expect_code(0);
    until("its end", || node().arg("status").run().code == Some(1));
}

#[test]
fn configured_daemon_is_started_so_by_a_verb_and_a_flag_wins() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let store = scene.path("elsewhere");
    let settings = format!("quota = '3M'\nembed-tracker = true\nstore = '{}'\n", store.display());
    crate::config::configure(&scene, "configured", &settings);
    let node = || scene.dft_on(lab.host(0), "configured");
    node().arg("ls").run().expect_code(0);
    let status = node().args(["status", "--json"]).run().expect_code(0);
    let status = status.event("status");
    assert_eq!((status.number("quota"), status.text("store")), (3 * MIB, store.to_str().expect("a path")));
    assert!(status.value["embeds_tracker"].as_bool().expect("a flag"));
    node().args(["status", "--stop"]).run().expect_code(0);
    until("its end", || node().arg("status").run().code == Some(1));
    let daemon = node().args(["daemon", "--json", "--quota", "4M"]).start();
    daemon.wait_for("ready");
    let status = node().args(["status", "--json"]).run().expect_code(0);
    assert_eq!(status.event("status").number("quota"), 4 * MIB);
}

#[test]
fn daemon_that_is_installed_starts_as_it_was_told() {
    let scene = Scene::new();
    let unit = scene.path("node.state/.config/systemd/user/dft.service");
    let options = ["--quota", "5M", "--store", "a b%"];
    let said = scene.dft("node").args(["daemon", "--install"]).args(options).run().expect_code(0);
    assert!(said.stdout.contains("systemctl --user enable --now dft.service"), "{}", said.stdout);
    let unit = text_of(&unit);
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    assert!(start.ends_with(r#"" "daemon" "--quota" "5M" "--store" "a b%%""#), "{start}");
    assert!(unit.contains(&format!("WorkingDirectory={}\n", scene.path("node").display())), "{unit}");
    // Nothing was started yet.
    assert!(scene.dft("node").arg("status").run().expect_code(1).stderr.contains("no daemon runs"));
}

#[test]
fn batches_run_verbs_in_order_and_stop_at_the_first_failure() {
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let directory = scene.path("h0");
    std::fs::write(directory.join("a b"), "text\n").expect("it is written");
    std::fs::create_dir(directory.join("out")).expect("it is made");
    let batch = |text: &str| nodes[0].dft().args(["-c", text]).run();
    let done = batch("put 'a b' name, get name out, !echo done, now").expect_code(0);
    assert!(done.stdout.contains("done, now"), "{}", done.stdout);
    assert_eq!(text_of(&directory.join("out/name")), "text\n");
    let failed = batch("get nothing, !touch never").expect_code(7);
    assert!(failed.stderr.contains("knows no nothing"), "{}", failed.stderr);
    assert!(!directory.join("never").exists());
    batch("put 'a b").expect_code(2);
}

#[test]
fn nobody_else_can_use_the_socket() {
    use std::os::unix::fs::PermissionsExt;
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let directory = scene.socket_directory("h0");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("daemon.sock"))), (0o700, 0o600));
    // Whoever is this user and sends nonsense harms nobody.
    for nonsense in [&[0xff; 64][..], &[0, 0, 0, 1, 0xf6], &[0, 0, 0, 9, 1, 2], &[]] {
        let mut socket =
            std::os::unix::net::UnixStream::connect(directory.join("daemon.sock")).expect("it listens");
        std::io::Write::write_all(&mut socket, nonsense).expect("it is taken");
    }
    nodes[0].run(&["status"]);
    // A directory that others can look into is not trusted by the command line either.
    data::set_mode(&directory, 0o755);
    assert!(nodes[0].fails(1, &["status"]).contains("is not a directory of this user alone"));
    data::set_mode(&directory, 0o700);
    nodes[0].run(&["status"]);
}

#[test]
fn requests_that_wait_for_data_keep_no_short_one_waiting() {
    /// More than are taken: the last ones are refused.
    const WAITING: usize = 520;
    let Some(lab) = Lab::hosts(2).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let file = scene.path("model");
    data::random_file(&file, 5, 8 * MIB);
    nodes[0].put(&file, "model");
    nodes[0].run(&["limit", "--max-upload", "1K"]);
    let socket = scene.socket_directory("h1").join("daemon.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut waiting: Vec<_> = (0..WAITING)
        .map(|number| {
            let request = Request::Get {
                names: vec!["model".into()],
                into: scene.new_directory(&format!("into {number}")).as_path().into(),
                parents: false,
                peek: false,
                id: None,
                force: false,
                include: Vec::new(),
                exclude: Vec::new(),
                timeout_ms: None,
            };
            runtime.block_on(async {
                let mut stream = tokio::net::UnixStream::connect(&socket).await.expect("it listens");
                let request = wire::envelope(&request).expect("it encodes");
                wire::send(&mut stream, &request).await.expect("it is taken");
                stream
            })
        })
        .collect();
    until("a fetch", || nodes[1].status().contains("\"fetching\""));
    nodes[1].run(&["ls"]).event("listed");
    let mut end_of = |number: usize| {
        runtime.block_on(async {
            loop {
                match wire::receive::<wire::Event>(&mut waiting[number]).await {
                    Ok(Some(wire::Event::Failed { message, .. })) => return message,
                    Ok(Some(_)) => {}
                    other => panic!("it ended with {other:?}"),
                }
            }
        })
    };
    assert!(end_of(WAITING - 1).contains("requests wait for data already"));
    nodes[1].run(&["drop", "model", "--force"]);
    assert!(end_of(0).contains("given up"));
}

/// What the daemon at a socket answers to whoever runs this; nothing where it hangs up.
fn answer_at(socket: &Path) -> Option<wire::Event> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut stream = tokio::net::UnixStream::connect(socket).await.expect("anybody may connect");
        let request = wire::envelope(&Request::Status).expect("it encodes");
        // It may be gone before all is written.
        let _ = wire::send(&mut stream, &request).await;
        wire::receive(&mut stream).await.ok().flatten()
    })
}

/// No test: what somebody else does to the socket that [`NEIGHBOUR`] names.
#[test]
fn neighbour() {
    if let Some(socket) = std::env::var_os(NEIGHBOUR) {
        let answered = answer_at(socket.as_ref()).is_some();
        println!("neighbour: {}", if answered { "answered" } else { "refused" });
    }
}

#[test]
fn another_user_is_refused_even_where_the_file_system_lets_him_in() {
    // Only who is root of the machine can be another user in turn.
    let Some(lab) = Lab::hosts(1).with_machine_root().start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    let directory = scene.socket_directory("h0");
    let socket = directory.join("daemon.sock");
    for above in directory.ancestors().take_while(|above| above.starts_with(scene.path(""))) {
        data::set_mode(above, 0o755);
    }
    data::set_mode(&socket, 0o666);
    let this = std::env::current_exe().expect("this program has a path");
    let ask_as = |user: &str| {
        let mut command = lab.host(0).command("setpriv", "/".as_ref());
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(&this);
        command.args(["shell::neighbour", "--exact", "--nocapture"]).env(NEIGHBOUR, &socket);
        let output = command.output().expect("start setpriv");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let own = ask_as("0");
    assert!(own.contains("neighbour: answered"), "{own}");
    let other = ask_as(NOBODY);
    assert!(other.contains("neighbour: refused"), "{other}");
    data::set_mode(&directory, 0o700);
    nodes[0].run(&["status"]);
}

/// A terminal in which `dft shell` runs.
struct Terminal {
    child: Child,
    keyboard: Option<ChildStdin>,
    screen: Receiver<Vec<u8>>,
    /// All that was shown, without what colours and moves the cursor.
    shown: String,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start script");
        let mut output = child.stdout.take().expect("it was asked for");
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        let keyboard = child.stdin.take();
        Self { child, keyboard, screen, shown: String::new() }
    }

    /// Waits until `text` is shown behind what was seen before; it counts as seen then.
    fn until_shown(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => {
                    let _ = write!(self.shown, "{}", String::from_utf8_lossy(&bytes));
                }
                Err(_) => panic!("«{text}» is not shown: {:?}", self.shown),
            }
        }
    }

    fn press(&mut self, keys: &str) {
        let keyboard = self.keyboard.as_mut().expect("it has a keyboard");
        keyboard.write_all(keys.as_bytes()).and_then(|()| keyboard.flush()).expect("it takes keys");
    }

    /// Its exit code, once it has ended.
    fn end(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end: {:?}", self.shown);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prompt_completes_remembers_and_ends_with_the_code_of_its_last_line() {
    const UP: &str = "\x1b[A";
    if Command::new("script").arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED a prompt on a terminal: there is no script(1)");
        return;
    }
    let Some(lab) = Lab::hosts(1).start_or_skip() else { return };
    let scene = Scene::new();
    let nodes = nodes(&lab, &scene, &[]);
    std::fs::write(scene.path("h0/table"), "text\n").expect("it is written");
    let mut terminal = Terminal::start(nodes[0].dft().shell_on_terminal());
    terminal.until_shown("dft> ");
    // The first verb that begins so, and the only file.
    terminal.press("pu\t");
    terminal.press("ta\t results/table\r");
    terminal.until_shown("results/table is put");
    terminal.until_shown("dft> ");
    // The only name that begins so, an option, the only node.
    terminal.press("ls --fi\tres\t\r");
    terminal.until_shown("5 B");
    terminal.until_shown("dft> ");
    terminal.press("push res\t--to \t--wa\t\r");
    terminal.until_shown("complete");
    terminal.until_shown("dft> ");
    terminal.press("!echo one, two\r");
    terminal.until_shown("\none, two");
    terminal.until_shown("dft> ");
    terminal.press("help\r");
    terminal.until_shown("Commands:");
    terminal.until_shown("dft> ");
    terminal.press("ls, get absent, !touch never\r");
    terminal.until_shown("\nresults/table");
    terminal.until_shown("error: the catalogue knows no absent");
    terminal.until_shown("dft> ");
    terminal.press("exit\r");
    assert_eq!(terminal.end(), Some(7));
    assert!(!scene.path("h0/never").exists(), "a failure ends its line");
    // Another shell remembers.
    let mut terminal = Terminal::start(nodes[0].dft().shell_on_terminal());
    terminal.until_shown("dft> ");
    terminal.press(&format!("{UP}{UP}{UP}{UP}{UP}{UP}\r"));
    terminal.until_shown("results/table is there already");
    terminal.until_shown("dft> ");
    // The end of the input ends it, too.
    terminal.press("\x04");
    assert_eq!(terminal.end(), Some(0));
}
